-- What was asked. A submission is written once and never changed.
CREATE TABLE submissions (
    submission_id   text PRIMARY KEY,
    owner           text NOT NULL,
    idempotency_key text,
    fingerprint     text NOT NULL,
    sha256          text NOT NULL,
    size_bytes      bigint NOT NULL,
    name            text NOT NULL,
    name_sent       text NOT NULL,
    submitted_at    timestamptz NOT NULL,
    tasks           jsonb NOT NULL,
    position        bigint GENERATED ALWAYS AS IDENTITY,
    CONSTRAINT one_submission_per_key UNIQUE (owner, idempotency_key)
);
CREATE INDEX submissions_by_position ON submissions (position);
CREATE INDEX submissions_by_sample ON submissions (sha256);

-- What exists, as its owners last said. A removed thing stays, so that a late message cannot bring it back.
CREATE TABLE known_plugins (
    name     text PRIMARY KEY,
    manifest jsonb
);
CREATE TABLE known_machines (
    machine_id text PRIMARY KEY,
    epoch      bigint NOT NULL,
    machine    jsonb
);
