-- How the graph is made, and made again (`storage/postgres/graph/rebuilds.py`, `refusals.py`, `remaking.py`).

-- Sightings of a day, for deletions: rows come in about in the order of days, so a few pages a day are read and writing pays nothing.
CREATE INDEX "Sighting_day" ON heimdall_graph."Sighting" USING brin (day) WITH (pages_per_range = 32);

-- Rebuilds that somebody asked for, the newest last: what is below a rebuild's `store_through` is made from the store.
CREATE TABLE graph_rebuild (
    rebuild_id uuid PRIMARY KEY,
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    actor text NOT NULL,
    reason text NOT NULL,
    -- Everything up to here is made again; what came later is new.
    through bigint NOT NULL,
    create_time_ns bigint NOT NULL,
    -- 0: not yet.
    end_time_ns bigint NOT NULL DEFAULT 0,
    -- What couldn't be made, for a person.
    notice text NOT NULL DEFAULT ''
);

-- Facts that PostgreSQL refused, the newest of them. No value is in it: a fact is told by where it came from and by its id.
CREATE TABLE graph_refused (
    ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time_ns bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    -- Name of the label: Entity, HAS_VALUE.
    kind text COLLATE "C" NOT NULL,
    -- Of a vertex; of an edge its start.
    id uuid NOT NULL,
    end_id uuid,
    source text COLLATE "C" NOT NULL,
    dump text COLLATE "C" NOT NULL,
    reason text NOT NULL
);

-- Vertices that went with a dump which is being applied again: what hangs on those that don't come back goes, too.
CREATE TABLE graph_dropped (
    id uuid NOT NULL
);
