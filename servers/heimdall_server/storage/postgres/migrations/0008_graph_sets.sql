-- So that the entities which somebody tells of are found without reading all of them: those with one provenance by their own row, others by theirs.
CREATE INDEX "Entity_provenance" ON heimdall_graph."Entity" (provenance);
CREATE INDEX graph_fact_provenance_of ON graph_fact_provenance (provenance, fact);
