-- What is remembered of a task goes some time after its end: it is found by that. One whose end nobody heard of goes at last.
ALTER TABLE pins ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX pins_by_end ON pins (ended_at);
