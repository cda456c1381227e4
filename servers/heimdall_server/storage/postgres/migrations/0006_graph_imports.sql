-- What other programs told us. Truth: the graph's facts of it are made from here, and a rebuild makes them again.
CREATE TABLE graph_import (
    sequence bigint PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    ref bytea NOT NULL,
    source text NOT NULL,
    entity uuid,
    tlp smallint NOT NULL CHECK (tlp BETWEEN 0 AND 4),
    counted bigint NOT NULL,
    -- Of the personal entities that it names: their tokens, and their ids in the same order.
    tokens text[] NOT NULL,
    people uuid[] NOT NULL,
    actor text NOT NULL,
    create_time_ns bigint NOT NULL,
    facts text NOT NULL,
    kept text NOT NULL
);
CREATE INDEX graph_import_ref ON graph_import (ref, sequence);
CREATE INDEX graph_import_entity ON graph_import (entity, sequence) WHERE entity IS NOT NULL;
-- An erasure finds rows by the tokens in them, and by whom these stand for: a row may have the token of an epoch that is gone.
CREATE INDEX graph_import_tokens ON graph_import USING gin (tokens);
CREATE INDEX graph_import_people ON graph_import USING gin (people);

-- The last number that was given out. Numbers of erased rows aren't given out again: the graph has noted that it applied them.
CREATE TABLE graph_import_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    sequence bigint NOT NULL
);
