"""PostgreSQL's adapter, without PostgreSQL."""
