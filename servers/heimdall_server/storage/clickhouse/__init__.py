"""The warm tier on ClickHouse: in process (chDB) or a server, by the same adapter."""
