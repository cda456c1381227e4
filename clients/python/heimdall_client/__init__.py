"""The Heimdall SDK: append records, search them, follow them live."""
