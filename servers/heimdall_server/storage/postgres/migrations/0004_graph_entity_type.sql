-- So that entities of a rare type are listed without walking all of them, the latest first. Rows get their ids in order, so each type's end of
-- the index is where it grows: a quarter of what an index in the order of the 128-bit ids costs. Neither column ever changes.
CREATE INDEX "Entity_type" ON heimdall_graph."Entity" (type, id);
