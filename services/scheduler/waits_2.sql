-- The look at a task, put off until something that it waits for now is overdue. One that is due is not put off: whatever
-- happens just before it is made, or while it is, would else cost the orders that it gives again their turn.
CREATE FUNCTION put_off_look(task text, delay interval) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    was_due boolean;
BEGIN
    DELETE FROM work WHERE kind = 'wait' AND key = task RETURNING due_at <= now() INTO was_due;
    INSERT INTO work (kind, key, payload, due_at)
        SELECT 'wait', task, jsonb_build_object('task_id', task), now() + CASE WHEN was_due THEN '0' ELSE delay END
        WHERE delay IS NOT NULL;
END $$;
