"""OTLP/HTTP, Elasticsearch's `_bulk` and Loki's push: one ASGI application, and the listener that serves it over TLS."""
