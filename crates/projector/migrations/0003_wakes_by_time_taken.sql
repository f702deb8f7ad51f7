-- The longest wakes, without reading all of them. The expression is the query's own.
CREATE INDEX wakes_by_time_taken ON wakes
    (greatest(coalesce(ended_at_ms - requested_at_ms, 9223372036854775807), 0), requested_at_ms, wake_id);
