"""The use cases of query, free of wire types: questions, search, watch, explain, fields, tokens."""
