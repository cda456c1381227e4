"""What isn't gRPC: listeners for other protocols, over the same use cases, identities and limits."""
