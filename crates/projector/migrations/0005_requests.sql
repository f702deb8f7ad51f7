-- Inference requests that have ended, and what was used in each hour. They come from the stream of requests, not from the journal, so
-- rebuilding the rows leaves these tables alone.

-- How far that stream is taken in. The one row moves by compare-and-set in the transaction that writes the rest.
CREATE TABLE request_checkpoint (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    stream_seq bigint  NOT NULL
);
INSERT INTO request_checkpoint (stream_seq) VALUES (0);

-- The last batch of each run of a replica, so that one which is in the stream twice counts once.
CREATE TABLE request_runs (
    run          uuid   PRIMARY KEY,
    number       bigint NOT NULL,
    stored_at_ms bigint NOT NULL
);

-- One row for each request whose record was kept. The columns are what is searched; the record has everything.
CREATE TABLE requests (
    record_id      uuid    PRIMARY KEY,
    request_id     text    NOT NULL,
    key_id         text,
    model          text,
    agent          text,
    provider       text,
    wake_id        uuid,
    received_at_ms bigint  NOT NULL,
    waited_ms      bigint,
    failed         boolean NOT NULL,
    record         json    NOT NULL
);
CREATE INDEX requests_of_id ON requests (request_id);
CREATE INDEX requests_in_time ON requests (received_at_ms);
CREATE INDEX requests_of_key ON requests (key_id, record_id);
CREATE INDEX requests_of_model ON requests (model, record_id);
CREATE INDEX requests_of_wake ON requests (wake_id) WHERE wake_id IS NOT NULL;
CREATE INDEX requests_that_failed ON requests (record_id) WHERE failed;

-- Sums of all requests, by the hour in which they ended. An empty name stands for none.
CREATE TABLE usage_hourly (
    hour_ms          bigint NOT NULL,
    key_id           text   COLLATE "C" NOT NULL,
    model            text   COLLATE "C" NOT NULL,
    agent            text   COLLATE "C" NOT NULL,
    provider         text   COLLATE "C" NOT NULL,
    requests         bigint NOT NULL,
    failures         bigint NOT NULL,
    tokens_in        bigint NOT NULL,
    tokens_out       bigint NOT NULL,
    tokens_estimated bigint NOT NULL,
    busy_ms          bigint NOT NULL,
    PRIMARY KEY (hour_ms, key_id, model, agent, provider)
);
