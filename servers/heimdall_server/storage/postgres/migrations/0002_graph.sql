-- The graph's tables. Its vertices and edges are the rows of AGE's own label tables, with columns of ours behind AGE's: what is searched,
-- filtered and sorted by is a column of its own type, and Cypher sees `properties` (ADR 0012). The graph itself and the extensions are made by
-- whoever may (`extensions.py`); this makes labels in it.

-- Where pgvector's types and operators are differs from server to server.
SELECT set_config('search_path', 'heimdall, ag_catalog, ' || (
    SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
), true);

-- Names of types and relations as numbers; 0 is none.
CREATE TABLE graph_term (
    term_id integer GENERATED ALWAYS AS IDENTITY (START 1) PRIMARY KEY,
    term text COLLATE "C" NOT NULL UNIQUE
);

-- Who says so: what many facts have in common.
CREATE TABLE graph_provenance (
    provenance_id integer GENERATED ALWAYS AS IDENTITY (START 1) PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    instance text NOT NULL,
    source text NOT NULL,
    method text NOT NULL,
    method_version text NOT NULL,
    dump text NOT NULL,
    actor text NOT NULL,
    confidence smallint NOT NULL CHECK (confidence BETWEEN 0 AND 100),
    tlp smallint NOT NULL CHECK (tlp BETWEEN 0 AND 4)
);

-- A fact with one provenance names it in its own row, whose sums are that provenance's; only facts with several have rows here, one each.
CREATE TABLE graph_fact_provenance (
    fact ag_catalog.graphid NOT NULL,
    provenance integer NOT NULL,
    first_ns bigint NOT NULL,
    last_ns bigint NOT NULL,
    count bigint NOT NULL,
    first_place bigint NOT NULL,
    last_place bigint NOT NULL,
    hours integer[],
    PRIMARY KEY (fact, provenance)
) WITH (fillfactor = 90);

-- Which positions of which stream are in: ranges that don't touch one another.
CREATE TABLE graph_applied (
    stream text COLLATE "C" NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    PRIMARY KEY (stream, first_position),
    CHECK (first_position <= last_position)
);

-- What batches held, as digests: one that says the same again, counting nothing, is known without looking at its facts. Whoever deletes facts
-- empties it.
CREATE TABLE graph_content (
    digest bytea PRIMARY KEY
);

-- Counts and samples of dumps and fields; the one of the highest rank stays.
CREATE TABLE graph_profile (
    id uuid PRIMARY KEY,
    rank bigint NOT NULL,
    body text COLLATE "C" NOT NULL
);

-- What people decide. Keyed by ids that follow from what things are, not by rows of the graph: no rebuild touches it.
CREATE TABLE graph_label (
    id uuid NOT NULL,
    label text COLLATE "C" NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    tlp smallint NOT NULL CHECK (tlp BETWEEN 0 AND 4),
    create_time_ns bigint NOT NULL,
    PRIMARY KEY (id, label)
);
CREATE INDEX graph_label_label ON graph_label (label, id);
CREATE TABLE graph_note (
    note_id uuid PRIMARY KEY,
    id uuid NOT NULL,
    body text NOT NULL,
    actor text NOT NULL,
    tlp smallint NOT NULL CHECK (tlp BETWEEN 0 AND 4),
    version integer NOT NULL,
    create_time_ns bigint NOT NULL,
    update_time_ns bigint NOT NULL
);
CREATE INDEX graph_note_id ON graph_note (id);
CREATE TABLE graph_merge (
    id uuid PRIMARY KEY,
    into_id uuid NOT NULL CHECK (into_id <> id),
    actor text NOT NULL,
    reason text NOT NULL,
    create_time_ns bigint NOT NULL
);
CREATE INDEX graph_merge_into ON graph_merge (into_id);

-- Meanings as vectors, by whoever makes them; keyed like authored facts, since they cost more to make than a rebuild.
CREATE TABLE graph_embedding (
    id uuid NOT NULL,
    kind smallint NOT NULL,
    model text COLLATE "C" NOT NULL,
    embedding vector(384) NOT NULL,
    PRIMARY KEY (id, model)
);
CREATE INDEX graph_embedding_entity ON graph_embedding USING hnsw (embedding vector_cosine_ops) WHERE kind = 4;
CREATE INDEX graph_embedding_field ON graph_embedding USING hnsw (embedding vector_cosine_ops) WHERE kind = 1;

-- Of every label, so that what is asked without naming one is kept to its ceiling, too.
ALTER TABLE heimdall_graph._ag_label_vertex ADD tlp_min smallint NOT NULL;
ALTER TABLE heimdall_graph._ag_label_edge ADD tlp_min smallint NOT NULL;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['Dump', 'Field', 'FieldValue', 'Sighting', 'Entity'] LOOP
        PERFORM ag_catalog.create_vlabel('heimdall_graph', name::cstring);
        EXECUTE format(
            'ALTER TABLE heimdall_graph.%I '
            'ADD uid uuid NOT NULL, ADD first_ns bigint NOT NULL, ADD last_ns bigint NOT NULL, ADD count bigint NOT NULL, '
            'ADD first_place bigint NOT NULL, ADD last_place bigint NOT NULL, ADD provenance integer NOT NULL, ADD type integer NOT NULL, '
            'ADD day integer NOT NULL, ADD mark smallint NOT NULL, ADD confidence smallint NOT NULL, '
            'ADD tlp_max smallint NOT NULL, ADD hours integer[], SET (fillfactor = 90)', name);
        EXECUTE format('CREATE UNIQUE INDEX %I ON heimdall_graph.%I (uid)', name || '_uid', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['HAS_FIELD', 'HAS_VALUE', 'OBSERVED_IN', 'OF_ENTITY', 'RELATED_TO', 'ENRICHED_BY'] LOOP
        PERFORM ag_catalog.create_elabel('heimdall_graph', name::cstring);
        EXECUTE format(
            'ALTER TABLE heimdall_graph.%I '
            'ADD first_ns bigint NOT NULL, ADD last_ns bigint NOT NULL, ADD count bigint NOT NULL, ADD first_place bigint NOT NULL, '
            'ADD last_place bigint NOT NULL, ADD provenance integer NOT NULL, ADD relation integer NOT NULL, ADD rank integer NOT NULL, '
            'ADD confidence smallint NOT NULL, ADD tlp_max smallint NOT NULL, SET (fillfactor = 90)', name);
        -- AGE's own are on one end only and in no order.
        EXECUTE format('DROP INDEX heimdall_graph.%I', name || '_start_id_idx');
        EXECUTE format('DROP INDEX heimdall_graph.%I', name || '_end_id_idx');
        EXECUTE format('CREATE UNIQUE INDEX %I ON heimdall_graph.%I (start_id, end_id, relation)', name || '_ends', name);
        EXECUTE format('CREATE INDEX %I ON heimdall_graph.%I (start_id, rank)', name || '_start', name);
        EXECUTE format('CREATE INDEX %I ON heimdall_graph.%I (end_id, rank)', name || '_end', name);
    END LOOP;
END
$$;

-- So that Cypher finds an entity by its value; hashed, since values may be longer than a page has room for.
CREATE INDEX entity_value ON heimdall_graph."Entity"
    USING hash (ag_catalog.agtype_access_operator(VARIADIC ARRAY[properties, '"value"'::ag_catalog.agtype]));

-- Cypher is run under a role that isn't the owner: it sees what its session's ceiling lets it see, and without one nothing.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        '_ag_label_vertex', '_ag_label_edge', 'Dump', 'Field', 'FieldValue', 'Sighting', 'Entity',
        'HAS_FIELD', 'HAS_VALUE', 'OBSERVED_IN', 'OF_ENTITY', 'RELATED_TO', 'ENRICHED_BY'
    ] LOOP
        EXECUTE format('ALTER TABLE heimdall_graph.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY ceiling ON heimdall_graph.%I FOR SELECT '
            'USING (tlp_min <= coalesce(nullif(current_setting(''heimdall.tlp_max'', true), ''''), ''-1'')::integer)', name);
    END LOOP;
END
$$;
