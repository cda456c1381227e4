-- What is kept of dumps besides their facts (`storage/postgres/graph/dumps.py`).

-- Profiles of dumps and fields, one for each provenance: they add up, and a reader is shown those that they may see. Nobody wrote the one there was.
DROP TABLE graph_profile;
CREATE TABLE graph_profile (
    id uuid NOT NULL,
    provenance integer NOT NULL,
    -- Version, counts and sketch (`domain/graph_profiles.py`).
    body bytea NOT NULL,
    PRIMARY KEY (id, provenance)
);
CREATE INDEX graph_profile_provenance ON graph_profile (provenance);

-- What the records of dumps said, by number, 8 bytes each: one that comes again is known. A row has 4,096 of them in order; zeros: it wasn't seen.
CREATE TABLE graph_record (
    provenance integer NOT NULL,
    block bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (provenance, block)
);
-- Neither can be compressed.
ALTER TABLE graph_profile ALTER body SET STORAGE EXTERNAL;
ALTER TABLE graph_record ALTER hashes SET STORAGE EXTERNAL;
