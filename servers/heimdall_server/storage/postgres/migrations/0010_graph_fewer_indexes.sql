-- Indexes that cost each dump more than they give. Which edges start at a sighting or at a field's value: hardly more than one, so the unique index that begins
-- with the start finds them as fast as one in the order of relevance does. A value is of one field: one index that begins with the value finds the edge by both its
-- ends and what ends at the value, with the marking that is counted by.
DROP INDEX heimdall_graph."OF_ENTITY_start", heimdall_graph."OBSERVED_IN_start", heimdall_graph."HAS_VALUE_ends", heimdall_graph."HAS_VALUE_end";
CREATE UNIQUE INDEX "HAS_VALUE_ends" ON heimdall_graph."HAS_VALUE" (end_id, start_id, relation) INCLUDE (tlp_min);

-- Edges without a relation say nothing more to Cypher, and needn't be told so each time.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['HAS_FIELD', 'HAS_VALUE', 'OBSERVED_IN', 'OF_ENTITY'] LOOP
        EXECUTE format('ALTER TABLE heimdall_graph.%I ALTER properties SET DEFAULT ''{}''::ag_catalog.agtype', name);
    END LOOP;
END
$$;
