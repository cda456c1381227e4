"""The use cases of the privacy service."""
