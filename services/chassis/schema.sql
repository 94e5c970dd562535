-- The chassis's own tables, made in every service's schema. Events are append-only.
CREATE TABLE events (
    position    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    txid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    stream      uuid NOT NULL,
    version     integer NOT NULL,
    topic       text NOT NULL,
    state       bytea NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream, version)
);
CREATE INDEX events_in_commit_order ON events (txid, position);

CREATE TABLE inbox (
    message_id  text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_by_age ON inbox (received_at);

CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id  text NOT NULL UNIQUE,
    exchange    text NOT NULL,
    routing_key text NOT NULL,
    body        bytea NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE work (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL,
    key           text NOT NULL,
    payload       jsonb NOT NULL,
    due_at        timestamptz NOT NULL DEFAULT now(),
    attempts      integer NOT NULL DEFAULT 0,
    claimed_until timestamptz,
    claimed_pid   integer,
    last_error    text,
    UNIQUE (kind, key)
);
CREATE INDEX work_by_due ON work (due_at);

CREATE TABLE checkpoints (
    projection text PRIMARY KEY,
    txid       xid8 NOT NULL,
    position   bigint NOT NULL
);

-- One statement per command: the inbox entry, events, outbox rows and work, all or none.
CREATE FUNCTION commit_unit(
    inbox_id text,
    streams uuid[], versions integer[], topics text[], states bytea[],
    message_ids text[], exchanges text[], routing_keys text[], bodies bytea[],
    kinds text[], keys text[], payloads text[], dues timestamptz[],
    done_id bigint, done_attempt integer
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF done_id IS NOT NULL THEN
        DELETE FROM work WHERE id = done_id AND attempts = done_attempt;
        IF NOT FOUND THEN RETURN 'fenced'; END IF;
    END IF;
    IF inbox_id IS NOT NULL THEN
        INSERT INTO inbox (message_id) VALUES (inbox_id) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN RETURN 'duplicate'; END IF;
    END IF;
    INSERT INTO events (stream, version, topic, state) SELECT * FROM unnest(streams, versions, topics, states);
    INSERT INTO outbox (message_id, exchange, routing_key, body)
        SELECT * FROM unnest(message_ids, exchanges, routing_keys, bodies) ON CONFLICT (message_id) DO NOTHING;
    INSERT INTO work (kind, key, payload, due_at)
        SELECT DISTINCT ON (k, y) k, y, p::jsonb, d FROM unnest(kinds, keys, payloads, dues) AS t(k, y, p, d)
        ON CONFLICT (kind, key) DO UPDATE SET due_at = least(work.due_at, excluded.due_at);
    RETURN 'committed';
END $$;
