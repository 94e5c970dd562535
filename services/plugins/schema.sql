-- What was ordered, and how far it came. A stage is one (task, attempt, stage), ordered once.
CREATE TABLE stages (
    task_id       text NOT NULL,
    attempt       integer NOT NULL,
    stage         text NOT NULL,
    is_ordered    boolean NOT NULL DEFAULT false,
    cancel_reason text,
    outcome       text,
    launched_at   timestamptz,
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, attempt, stage)
);

-- Every run of a plugin. A run that has an outcome is not repeated.
CREATE TABLE stage_runs (
    run_id      text PRIMARY KEY,
    task_id     text NOT NULL,
    attempt     integer NOT NULL,
    stage       text NOT NULL,
    plugin      text NOT NULL,
    version     text NOT NULL,
    outcome     text NOT NULL,
    reason      text NOT NULL,
    is_error    boolean NOT NULL,
    duration_ms integer NOT NULL,
    log         text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stage_runs_by_stage ON stage_runs (task_id, attempt, stage);

-- Every result whose bytes are durable in the object store.
CREATE TABLE produced (
    result_id   text PRIMARY KEY,
    run_id      text NOT NULL,
    task_id     text NOT NULL,
    attempt     integer NOT NULL,
    stage       text NOT NULL,
    plugin      text NOT NULL,
    name        text NOT NULL,
    media_type  text NOT NULL,
    sha256      text NOT NULL,
    size_bytes  bigint NOT NULL,
    position    bigint GENERATED ALWAYS AS IDENTITY,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX produced_by_task ON produced (task_id, stage, attempt, position);

-- What a task's sample turned out to be: the same for all of its stages.
CREATE TABLE prepared (
    task_id     text PRIMARY KEY,
    package     text NOT NULL,
    platform    text,
    name        text NOT NULL,
    sha256      text NOT NULL,
    container   text,
    listing     text,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
