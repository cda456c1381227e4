"""Records in: Append, OTLP Export, dead letters."""
