"""Adapters, one folder an engine; they do not know each other."""
