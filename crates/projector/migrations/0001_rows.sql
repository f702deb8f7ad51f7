-- Rows, archive and checkpoint. Everything here is a fold of the journal: dropping it loses nothing but the time that
-- reading the journal again takes. Names sort by their bytes, as they do in memory.

-- How far the journal is taken in. The one row moves by compare-and-set in the transaction that writes the rest.
CREATE TABLE checkpoint (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    stream_seq bigint  NOT NULL,
    hash       text    NOT NULL
);
INSERT INTO checkpoint (stream_seq, hash) VALUES (0, '');

-- The archive: what restores the journal byte for byte.
CREATE TABLE commits (
    stream_seq bigint PRIMARY KEY,
    subject    text   NOT NULL,
    headers    json   NOT NULL,
    payload    bytea  NOT NULL,
    hash       text   NOT NULL,
    -- Why this program could not read it; null for a commit that it read.
    unreadable text
);

-- postgres-es's event table, and where each event stands in the journal. Nothing but that place is unique here: the
-- journal decides what it holds, and a constraint could only stop the projector.
CREATE TABLE events (
    aggregate_type  text    NOT NULL,
    aggregate_id    text    NOT NULL,
    sequence        bigint  NOT NULL CHECK (sequence >= 0),
    event_type      text    NOT NULL,
    event_version   text    NOT NULL,
    payload         json    NOT NULL,
    metadata        json    NOT NULL,
    stream_seq      bigint  NOT NULL,
    index_in_commit integer NOT NULL,
    at_ms           bigint  NOT NULL,
    command_id      uuid,
    wake_id         uuid,
    PRIMARY KEY (stream_seq, index_in_commit)
);
CREATE INDEX events_of_aggregate ON events (aggregate_type, aggregate_id, sequence);
CREATE INDEX events_of_id ON events (aggregate_id, stream_seq, index_in_commit);
CREATE INDEX events_of_type ON events (event_type, stream_seq, index_in_commit);

-- One row for each model of each published provider.
CREATE TABLE llms (
    agent                text    COLLATE "C" NOT NULL,
    model                text    COLLATE "C" NOT NULL,
    provider             text    COLLATE "C" NOT NULL,
    name                 text    NOT NULL,
    kind                 text    NOT NULL,
    status               text    NOT NULL,
    since_ms             bigint  NOT NULL,
    epoch                bigint  NOT NULL,
    wake_id              uuid,
    wake_deadline_ms     bigint,
    can_wake             boolean NOT NULL,
    can_sleep            boolean NOT NULL,
    wakes_requested      bigint  NOT NULL,
    wakes_succeeded      bigint  NOT NULL,
    wakes_failed         bigint  NOT NULL,
    last_wake_id         uuid,
    last_wake_took_ms    bigint,
    last_wake_failure    json,
    failures             bigint  NOT NULL,
    held_until_ms        bigint,
    last_failure         json,
    updated_seq          bigint  NOT NULL,
    unreadable_since_seq bigint,
    -- From heartbeats, which are not in the journal: written apart from the rest, and not indexed, so that it stays cheap.
    last_heartbeat_ms    bigint,
    PRIMARY KEY (agent, model, provider)
);
CREATE INDEX llms_of_provider ON llms (agent, provider);
CREATE INDEX llms_of_model ON llms (model);
CREATE INDEX llms_of_status ON llms (status);
CREATE INDEX llms_by_name ON llms (name);

-- One row for each wake that ever was.
CREATE TABLE wakes (
    wake_id         uuid   PRIMARY KEY,
    agent           text   NOT NULL,
    provider        text   NOT NULL,
    cause_by        text,
    request_id      text,
    model           text,
    requested_at_ms bigint NOT NULL,
    deadline_ms     bigint,
    ended_at_ms     bigint,
    outcome         text   NOT NULL,
    failure_kind    text,
    failure_stage   text,
    failure_reason  text,
    stages          json   NOT NULL,
    requested_seq   bigint,
    ended_seq       bigint
);
CREATE INDEX wakes_in_order ON wakes (requested_at_ms, wake_id);
CREATE INDEX wakes_of_provider ON wakes (agent, provider, requested_at_ms, wake_id);
CREATE INDEX wakes_of_outcome ON wakes (outcome, requested_at_ms, wake_id);
