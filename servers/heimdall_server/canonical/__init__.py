"""Values of many spellings → the one canonical form of each, over columns."""
