"""The graph: what is connected with what, since when, and who says so."""
