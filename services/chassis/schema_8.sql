-- As before, and a unit that was decided on from memory stands only if nothing else happened to what it remembered.
DROP FUNCTION commit_unit(
    text, uuid[], integer[], text[], bytea[], text[], text[], text[], bytea[], text[], text[], text[], interval[],
    bigint, integer, bigint, integer
);
CREATE FUNCTION commit_unit(
    inbox_id text,
    streams uuid[], versions integer[], topics text[], states bytea[],
    message_ids text[], exchanges text[], routing_keys text[], bodies bytea[],
    kinds text[], keys text[], payloads text[], delays interval[],
    done_id bigint, done_attempt integer,
    held_id bigint, held_attempt integer,
    seen_streams uuid[], seen_versions integer[], seen_states bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF done_id IS NOT NULL THEN
        DELETE FROM work WHERE id = done_id AND attempts = done_attempt;
        IF NOT FOUND THEN RAISE EXCEPTION 'the work has a later claim' USING ERRCODE = 'MB002'; END IF;
    ELSIF held_id IS NOT NULL THEN
        -- Until this commits no claim can pass, and a renewal, which changes no key, can.
        PERFORM FROM work WHERE id = held_id AND attempts = held_attempt FOR KEY SHARE;
        IF NOT FOUND THEN RAISE EXCEPTION 'the work has a later claim' USING ERRCODE = 'MB002'; END IF;
    END IF;
    IF inbox_id IS NOT NULL THEN
        INSERT INTO inbox (message_id) VALUES (inbox_id) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN RAISE EXCEPTION 'the message was handled before' USING ERRCODE = 'MB001'; END IF;
    END IF;
    -- What was decided on from memory must be what the store holds, up to its last event.
    FOR number IN 1 .. cardinality(seen_streams) LOOP
        IF (
            SELECT count(*) = 1 AND bool_and(state = seen_states[number]) FROM events
            WHERE stream = seen_streams[number] AND version >= seen_versions[number]
        ) IS NOT TRUE THEN
            RAISE EXCEPTION 'the store holds another history' USING ERRCODE = 'MB003';
        END IF;
    END LOOP;
    IF cardinality(streams) > 0 THEN
        INSERT INTO events (stream, version, topic, state) SELECT * FROM unnest(streams, versions, topics, states);
    END IF;
    IF cardinality(message_ids) > 0 THEN
        INSERT INTO outbox (message_id, exchange, routing_key, body)
            SELECT * FROM unnest(message_ids, exchanges, routing_keys, bodies) ON CONFLICT (message_id) DO NOTHING;
    END IF;
    IF cardinality(kinds) > 0 THEN
        INSERT INTO work (kind, key, payload, due_at)
            SELECT DISTINCT ON (k, y) k, y, p::jsonb, now() + d
            FROM unnest(kinds, keys, payloads, delays) AS t(k, y, p, d)
            ON CONFLICT (kind, key) DO UPDATE SET due_at = least(work.due_at, excluded.due_at);
    END IF;
END $$;
