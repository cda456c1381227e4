"""What the services need from engines: Protocols with their guarantees and errors. No driver, no wire type."""
