-- Objects that relations and sightings were told of as are kept like those of entities (`kept`); this is the edge or the sighting that they are found by.
-- Rows from before have none: the same import again adds it.
ALTER TABLE graph_import ADD fact uuid;
CREATE INDEX graph_import_fact ON graph_import (fact, sequence) WHERE fact IS NOT NULL;
