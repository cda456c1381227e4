"""Which entities are on warninglists, and where those lists come from."""
