"""Query text to expression tree, and tree to a vectorised Arrow predicate."""
