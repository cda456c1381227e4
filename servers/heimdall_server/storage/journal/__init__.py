"""The embedded journal: encrypted segments of Arrow IPC, group-committed."""
