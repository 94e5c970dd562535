-- Which versions of plugins the plan of a task pins, until the task ended. A task whose end was heard of first pins nothing.
CREATE TABLE pins (
    task_id  text PRIMARY KEY,
    runs     jsonb NOT NULL,
    ended_at timestamptz
);
