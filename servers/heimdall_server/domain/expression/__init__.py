"""The query as a typed tree: what text, programs and saved searches all become."""
