"""PostgreSQL: embedded or a server elsewhere; its pool, its schema, and the ports that it serves."""
