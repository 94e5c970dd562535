-- What operators see and decide: messages that nobody could handle, and everything an operator did, by whom and why.
CREATE TABLE parked (
    id              text PRIMARY KEY,
    queue           text NOT NULL,
    type            text NOT NULL,
    subject         text NOT NULL,
    reason          text NOT NULL,
    body            bytea NOT NULL,
    times           integer NOT NULL,
    state           text NOT NULL DEFAULT 'parked' CHECK (state IN ('parked', 'replayed', 'dropped')),
    first_parked_at timestamptz NOT NULL DEFAULT now(),
    parked_at       timestamptz NOT NULL DEFAULT now(),
    decided_at      timestamptz
);
CREATE INDEX parked_by_age ON parked (parked_at DESC, id DESC);

CREATE TABLE operator_actions (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    who      text NOT NULL,
    action   text NOT NULL,
    target   text NOT NULL,
    reason   text NOT NULL
);
CREATE INDEX operator_actions_by_target ON operator_actions (target, position);

-- Messages whose handling a process did not survive, and how often they were being handled alone when it died.
CREATE TABLE suspects (
    id      text PRIMARY KEY,
    tries   integer NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
);

-- How often an operator sent the message anew; 0 for what a unit said.
ALTER TABLE outbox ADD COLUMN replays integer NOT NULL DEFAULT 0;
