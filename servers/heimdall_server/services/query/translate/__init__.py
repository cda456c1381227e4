"""Query's wire messages to domain values and back: the tree, questions, rows."""
