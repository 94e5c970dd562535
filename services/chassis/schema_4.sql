-- The last rebuild of each projection, by whom and why, and how far it is.
CREATE TABLE rebuilds (
    projection    text PRIMARY KEY,
    state         text NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    who           text NOT NULL,
    reason        text NOT NULL,
    asked_at      timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    events_done   bigint NOT NULL DEFAULT 0,
    events_total  bigint NOT NULL DEFAULT 0,
    rows_changed  bigint NOT NULL DEFAULT 0,
    error         text NOT NULL DEFAULT ''
);
