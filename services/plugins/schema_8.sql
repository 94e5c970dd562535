-- Everything that was said of a stage is kept, because plugins may be told of it; only what others await is said again.
-- What is committed together has one instant, and an order of its own in it.
ALTER TABLE said ADD COLUMN is_awaited boolean NOT NULL DEFAULT true, ADD COLUMN place integer NOT NULL DEFAULT 0;
