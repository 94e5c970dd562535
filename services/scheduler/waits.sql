-- One row of work per task that waits for something, due when the task is to be looked at again; null: for nothing.
-- The delay is counted by the clock that looks for what is due, not by that of whoever asked.
-- A new row in place of the old one: whoever looks at the task right now finds that it is not up to date any more.
CREATE FUNCTION look_again(task text, delay interval) RETURNS void LANGUAGE sql AS $$
    DELETE FROM work WHERE kind = 'wait' AND key = task;
    INSERT INTO work (kind, key, payload, due_at)
        SELECT 'wait', task, jsonb_build_object('task_id', task), now() + delay WHERE delay IS NOT NULL;
$$;
ALTER TABLE rules ADD COLUMN budgets jsonb NOT NULL DEFAULT '{}';
ALTER TABLE pool ADD COLUMN condition text NOT NULL DEFAULT 'not known yet';
