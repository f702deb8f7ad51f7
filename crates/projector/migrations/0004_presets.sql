-- What the model is a preset of, and the hash of what that adds.
ALTER TABLE llms ADD COLUMN preset json;
