"""The privacy service: policy, revealing, erasure, deletion, keys, the audit log."""
