"""From the journal to the graph: what records hold, as facts."""
