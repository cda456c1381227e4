-- What dumps hold is looked for in logs, before and after (`storage/postgres/graph/hunts.py`). Keyed by ids that follow from what things are, so
-- no rebuild touches it; whatever is about an entity has its id in the column `id` and goes with its erasure.

-- A hunt for what a dump holds. Counts are by marking, clear first, so that each reader gets those that they may see.
CREATE TABLE graph_hunt (
    dump uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    tlp smallint NOT NULL CHECK (tlp BETWEEN 0 AND 4),
    state smallint NOT NULL,
    -- Records older than this aren't searched; 0: by the server's settings.
    since_ns bigint NOT NULL DEFAULT 0,
    -- Asked for by a person: history is searched for whatever the graph knows as well.
    by_hand boolean NOT NULL DEFAULT false,
    -- The last entity whose history was searched.
    history_after uuid,
    entity_counts bigint[] NOT NULL DEFAULT '{0,0,0,0,0}',
    match_counts bigint[] NOT NULL DEFAULT '{0,0,0,0,0}',
    entity_count_max bigint NOT NULL,
    match_count_max bigint NOT NULL,
    record_count bigint NOT NULL DEFAULT 0,
    problem text NOT NULL DEFAULT '',
    actor text NOT NULL DEFAULT '',
    create_time_ns bigint NOT NULL,
    update_time_ns bigint NOT NULL
);
CREATE INDEX graph_hunt_state ON graph_hunt (state, update_time_ns);

-- Rows of sightings that a hunt has yet to look at: those that a batch made lie side by side.
CREATE TABLE graph_hunt_range (
    dump uuid NOT NULL,
    first_id bigint NOT NULL,
    last_id bigint NOT NULL,
    PRIMARY KEY (dump, first_id)
);

-- Entities that hunts look for. What logs say later is compared with it.
CREATE TABLE graph_hunted (
    id uuid NOT NULL,
    dump uuid NOT NULL,
    -- Of its sightings in the dump, the least strict one's.
    tlp smallint NOT NULL,
    -- Records since then were searched for it.
    searched_from_ns bigint NOT NULL DEFAULT 9223372036854775807,
    PRIMARY KEY (id, dump)
);
CREATE INDEX graph_hunted_dump ON graph_hunted (dump, id);

-- An entity of a dump that logs have as well: a source, a day. The machine's own annotation.
CREATE TABLE graph_match (
    match_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    dump uuid NOT NULL,
    source text COLLATE "C" NOT NULL,
    day integer NOT NULL,
    tlp smallint NOT NULL CHECK (tlp BETWEEN 0 AND 4),
    found smallint NOT NULL,
    count bigint NOT NULL,
    first_ns bigint NOT NULL,
    last_ns bigint NOT NULL,
    time_ns bigint NOT NULL,
    UNIQUE (id, dump, source, day)
);
CREATE INDEX graph_match_dump ON graph_match (dump, match_id);

-- Entities that somebody waits for, until when.
CREATE TABLE graph_watched (
    id uuid PRIMARY KEY,
    until_ns bigint NOT NULL
);

-- What watches are told, in the order in which it was committed: whoever adds to it holds the row of the head until then.
CREATE TABLE graph_event_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id uuid NOT NULL DEFAULT gen_random_uuid(),
    last bigint NOT NULL DEFAULT 0,
    -- Everything up to here was let go.
    gone bigint NOT NULL DEFAULT 0,
    create_time_ns bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint
);
INSERT INTO graph_event_head DEFAULT VALUES;
CREATE TABLE graph_event (
    seq bigint PRIMARY KEY,
    kind smallint NOT NULL,
    tlp smallint NOT NULL,
    time_ns bigint NOT NULL,
    id uuid,
    type text COLLATE "C" NOT NULL DEFAULT '',
    dump uuid,
    source text COLLATE "C" NOT NULL DEFAULT '',
    day integer NOT NULL DEFAULT 0,
    found smallint NOT NULL DEFAULT 0,
    count bigint NOT NULL DEFAULT 0,
    first_ns bigint NOT NULL DEFAULT 0,
    last_ns bigint NOT NULL DEFAULT 0,
    -- Of a hunt: its state, and its counts of entities and of matches by marking.
    state smallint NOT NULL DEFAULT 0,
    numbers bigint[]
);
CREATE INDEX graph_event_id ON graph_event (id) WHERE id IS NOT NULL;
