-- What the results service remembers. Text that came out of a guest has its NUL characters replaced: text cannot hold them.
CREATE TABLE tasks (
    task_id    text PRIMARY KEY,
    owner      text,
    state      text NOT NULL DEFAULT 'submitted',
    changed_at timestamptz NOT NULL
);

CREATE TABLE results (
    position     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    result_id    text PRIMARY KEY,
    task_id      text NOT NULL,
    attempt      integer NOT NULL,
    stage        text NOT NULL,
    plugin       text NOT NULL,
    version      text NOT NULL,
    run_id       text NOT NULL,
    name         text NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('json', 'bytes', 'file')),
    media_type   text NOT NULL,
    sha256       text NOT NULL,
    size_bytes   bigint NOT NULL CHECK (size_bytes >= 0),
    path         text,
    is_truncated boolean NOT NULL,
    recorded_at  timestamptz NOT NULL
);
CREATE INDEX results_by_task ON results (task_id, position);

-- The order to seal, as it came: JSON kept as bytes, because it carries text that jsonb refuses.
CREATE TABLE seals (
    task_id    text PRIMARY KEY,
    command    bytea NOT NULL,
    ordered_at timestamptz NOT NULL
);

CREATE TABLE reports (
    task_id    text PRIMARY KEY,
    verdict    text NOT NULL,
    score      integer NOT NULL,
    sha256     text NOT NULL,
    size_bytes bigint NOT NULL,
    missing    text[] NOT NULL,
    sealed_at  timestamptz NOT NULL
);
