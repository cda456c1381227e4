"""The use cases of ingest, free of wire types: sources, append sessions, the pipeline, exports, dead letters."""
