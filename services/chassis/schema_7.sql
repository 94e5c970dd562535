-- Messages that were confirmed leave the outbox. A deletion that a crash of the database forgets sends a message again,
-- which its receivers know by its id: not worth a flush of the disk.
CREATE FUNCTION forget_said(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM outbox WHERE message_id = ANY(ids);
END $$;
