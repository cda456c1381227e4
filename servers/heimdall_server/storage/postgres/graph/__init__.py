"""The graph in PostgreSQL: AGE's label tables with columns of ours, written by COPY, walked by indexes (ADR 0012)."""
