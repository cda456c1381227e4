-- How many edges end at a vertex is counted at each step of a walk, of hundreds of vertices and under the reader's ceiling: with the marking in the index, the
-- table itself isn't read for it. The entries get no longer by it (16 octets of columns, aligned). Dumps and fields have many edges of one rank, whose
-- entries lie together without a further column, and are few: their indexes stay as they are.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['HAS_VALUE', 'OF_ENTITY', 'RELATED_TO', 'ENRICHED_BY'] LOOP
        EXECUTE format('DROP INDEX heimdall_graph.%I', name || '_end');
        EXECUTE format('CREATE INDEX %I ON heimdall_graph.%I (end_id, rank) INCLUDE (tlp_min)', name || '_end', name);
    END LOOP;
END
$$;
