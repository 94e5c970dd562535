-- What was said of a stage that others must hear: said again, under the same ids, when the stage is ordered again.
CREATE TABLE said (
    message_id  text PRIMARY KEY,
    task_id     text NOT NULL,
    attempt     integer NOT NULL,
    stage       text NOT NULL,
    type        text NOT NULL,
    data        jsonb NOT NULL,
    position    bigint GENERATED ALWAYS AS IDENTITY,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX said_by_stage ON said (task_id, attempt, stage, position);
