"""What the graph service does, free of the wire."""
