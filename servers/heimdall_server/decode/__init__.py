"""Bytes to the one Arrow schema: one module a format, never a Python loop over records."""
