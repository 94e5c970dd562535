-- Results that the order to seal had no room to name, as they were named beside it.
CREATE TABLE named_results (
    task_id    text NOT NULL,
    part       integer NOT NULL,
    result_ids text[] NOT NULL,
    named_at   timestamptz NOT NULL,
    PRIMARY KEY (task_id, part)
);
-- Missing results beyond those that `missing` names.
ALTER TABLE reports ADD COLUMN missing_more integer NOT NULL DEFAULT 0;
