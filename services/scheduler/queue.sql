-- Who waits for a machine, and whose turn it is: policy/turns.py in SQL; a test holds the two together.
--
-- A lane is what the same owner wants alike: priority, profile, machine ('' is any), route. Only the first task of each
-- lane, its head, is looked at when a machine is free. So a pick costs a few index look-ups, however long the lanes are.
ALTER TABLE queue ADD COLUMN owner text NOT NULL DEFAULT '', ADD COLUMN cost_s bigint NOT NULL DEFAULT 60;
UPDATE queue SET owner = task_rows.owner FROM task_rows WHERE task_rows.task_id = queue.task_id;
UPDATE queue SET machine_id = '' WHERE machine_id IS NULL;
ALTER TABLE queue ALTER COLUMN machine_id SET NOT NULL;
DROP INDEX queue_in_order;
CREATE INDEX queue_by_lane ON queue (owner, priority, profile, machine_id, route, queued_at, task_id);

CREATE TABLE heads (
    owner text NOT NULL, priority integer NOT NULL, profile text NOT NULL, machine_id text NOT NULL,
    route text NOT NULL, task_id text NOT NULL, queued_at timestamptz NOT NULL,
    share bigint NOT NULL, is_open boolean NOT NULL,
    PRIMARY KEY (owner, priority, profile, machine_id, route)
);
CREATE INDEX heads_in_order ON heads (profile, route, machine_id, priority DESC, share, queued_at, task_id)
    WHERE is_open;

-- Seconds of machine time that the owner was given at that priority; the clock is how far everybody has come.
CREATE TABLE shares (
    owner text NOT NULL, priority integer NOT NULL, share bigint NOT NULL, PRIMARY KEY (owner, priority)
);
CREATE TABLE clocks (priority integer PRIMARY KEY, reached bigint NOT NULL);

-- Tasks that have a machine, or were promised one. `epoch` is that of the lease, once it is granted.
CREATE TABLE holding (
    task_id text PRIMARY KEY, owner text NOT NULL, priority integer NOT NULL, cost_s bigint NOT NULL,
    machine_id text NOT NULL, epoch integer
);
CREATE INDEX holding_by_owner ON holding (owner);
CREATE INDEX holding_by_machine ON holding (machine_id);

-- What the settings say, where every process of the service sees the same.
CREATE TABLE rules (is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one), running_per_owner_max integer NOT NULL);
INSERT INTO rules (running_per_owner_max) VALUES (1000);

CREATE INDEX pool_ready ON pool (machine_id) WHERE is_ready;

CREATE FUNCTION may_have_more(who text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM (SELECT FROM holding WHERE owner = who LIMIT r.running_per_owner_max) AS held)
           < r.running_per_owner_max FROM rules AS r
$$;

CREATE FUNCTION refresh_lane(who text, rank integer, of_profile text, machine text, by_route text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE first record;
BEGIN
    SELECT task_id, queued_at INTO first FROM queue
        WHERE owner = who AND priority = rank AND profile = of_profile AND machine_id = machine AND route = by_route
        ORDER BY queued_at, task_id LIMIT 1;
    IF NOT FOUND THEN
        DELETE FROM heads
        WHERE owner = who AND priority = rank AND profile = of_profile AND machine_id = machine AND route = by_route;
        RETURN;
    END IF;
    INSERT INTO heads
        SELECT who, rank, of_profile, machine, by_route, first.task_id, first.queued_at, share, may_have_more(who)
        FROM shares WHERE owner = who AND priority = rank
    ON CONFLICT (owner, priority, profile, machine_id, route)
        DO UPDATE SET task_id = excluded.task_id, queued_at = excluded.queued_at
        WHERE heads.task_id <> excluded.task_id;
END $$;

CREATE FUNCTION open_lanes(who text) RETURNS void LANGUAGE sql AS $$
    UPDATE heads SET is_open = NOT is_open WHERE owner = who AND is_open <> may_have_more(who)
$$;

-- An owner's changes follow each other: whether there may be more is counted, not guessed.
CREATE FUNCTION one_at_a_time(who text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(who, 0))
$$;

-- The task waits. One that was promised a machine and never had it pays nothing for the promise.
CREATE FUNCTION enter_queue(
    task text, who text, rank integer, of_profile text, machine text, by_route text, at timestamptz, cost bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM one_at_a_time(who);
    UPDATE shares SET share = share - holding.cost_s FROM holding
        WHERE holding.task_id = task AND holding.epoch IS NULL
        AND shares.owner = holding.owner AND shares.priority = holding.priority;
    DELETE FROM holding WHERE task_id = task;
    IF FOUND THEN
        UPDATE heads SET share = shares.share FROM shares
            WHERE heads.owner = who AND heads.priority = rank AND shares.owner = who AND shares.priority = rank;
        PERFORM open_lanes(who);
    END IF;
    INSERT INTO queue (task_id, owner, profile, machine_id, route, priority, queued_at, cost_s)
        VALUES (task, who, of_profile, machine, by_route, rank, at, cost) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN; END IF;
    INSERT INTO shares VALUES (who, rank, coalesce((SELECT reached FROM clocks WHERE priority = rank), 0))
        ON CONFLICT (owner, priority) DO UPDATE SET share = greatest(shares.share, excluded.share)
        WHERE NOT EXISTS (SELECT FROM heads WHERE owner = who AND priority = rank);
    PERFORM refresh_lane(who, rank, of_profile, machine, by_route);
END $$;

-- The task waits no more, whether it was given a machine (which its owner pays for) or gave up.
CREATE FUNCTION leave_queue(task text, is_paid boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE gone record;
BEGIN
    DELETE FROM queue WHERE task_id = task RETURNING * INTO gone;
    IF NOT FOUND THEN RETURN; END IF;
    IF is_paid THEN
        INSERT INTO clocks
            SELECT priority, share FROM shares WHERE owner = gone.owner AND priority = gone.priority
            ON CONFLICT (priority) DO UPDATE SET reached = greatest(clocks.reached, excluded.reached);
        UPDATE shares SET share = clocks.reached + gone.cost_s FROM clocks
            WHERE shares.owner = gone.owner AND shares.priority = gone.priority AND clocks.priority = gone.priority;
        UPDATE heads SET share = shares.share FROM shares
            WHERE heads.owner = gone.owner AND heads.priority = gone.priority
            AND shares.owner = gone.owner AND shares.priority = gone.priority;
    END IF;
    PERFORM refresh_lane(gone.owner, gone.priority, gone.profile, gone.machine_id, gone.route);
END $$;

-- The task was promised the machine, or (with the epoch of its lease) has it.
CREATE FUNCTION take_machine(task text, who text, rank integer, cost bigint, machine text, at_epoch integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE holding SET machine_id = machine, epoch = at_epoch WHERE task_id = task;
    IF FOUND THEN RETURN; END IF;
    PERFORM one_at_a_time(who);
    PERFORM leave_queue(task, true);
    INSERT INTO holding VALUES (task, who, rank, cost, machine, at_epoch)
        ON CONFLICT (task_id) DO UPDATE SET machine_id = excluded.machine_id, epoch = excluded.epoch;
    PERFORM open_lanes(who);
END $$;

-- The task neither waits nor has a machine.
CREATE FUNCTION stand_aside(task text, who text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM queue WHERE task_id = task) AND NOT EXISTS (SELECT FROM holding WHERE task_id = task)
    THEN RETURN; END IF;
    PERFORM one_at_a_time(who);
    PERFORM leave_queue(task, false);
    DELETE FROM holding WHERE task_id = task;
    IF FOUND THEN PERFORM open_lanes(who); END IF;
END $$;

INSERT INTO shares SELECT DISTINCT owner, priority, 0 FROM queue;
SELECT refresh_lane(owner, priority, profile, machine_id, route)
FROM (SELECT DISTINCT owner, priority, profile, machine_id, route FROM queue) AS lanes;
