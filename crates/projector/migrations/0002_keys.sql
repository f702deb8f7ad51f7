-- The key that a wake was asked for with, by its id.
ALTER TABLE wakes ADD COLUMN key_id text;
