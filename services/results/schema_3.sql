-- What became of the files found inside a task's sample, as it was said: JSON kept as bytes, like the orders to seal.
CREATE TABLE children (
    task_id text PRIMARY KEY,
    chosen  bytea NOT NULL
);
-- Inside whose samples a task's sample was found.
CREATE TABLE contained (
    child   text NOT NULL,
    task_id text NOT NULL,
    PRIMARY KEY (child, task_id)
);
-- A sealed report is never changed: what is learnt of its children later makes another one, and the last counts.
CREATE TABLE report_revisions (
    task_id    text NOT NULL,
    revision   integer NOT NULL,
    verdict    text NOT NULL,
    score      integer NOT NULL,
    sha256     text NOT NULL,
    size_bytes bigint NOT NULL,
    sealed_at  timestamptz NOT NULL,
    PRIMARY KEY (task_id, revision)
);
