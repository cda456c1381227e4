"""Puts a process together, runs it, and takes it apart again. The only place that knows every part."""
