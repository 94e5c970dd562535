-- What was missing from the evidence of a guest stage, once all of it was durable: nothing more is asked of the guest.
ALTER TABLE stages ADD COLUMN collected jsonb;

-- Evidence that a driver brought after another had taken its lease over. It is kept for whoever asks, and counts nowhere.
CREATE TABLE late_results (
    position    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id     text NOT NULL,
    attempt     integer NOT NULL,
    stage       text NOT NULL,
    machine_id  text NOT NULL,
    lease_id    text NOT NULL,
    epoch       bigint NOT NULL,
    term        integer NOT NULL,
    plugin      text NOT NULL,
    name        text NOT NULL,
    sha256      text NOT NULL,
    size_bytes  bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX late_results_by_age ON late_results (recorded_at);
