"""Hash-chained files: the audit log, and the ledger of operations and policies."""
