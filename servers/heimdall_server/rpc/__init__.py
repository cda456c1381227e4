"""gRPC: server, TLS, identity, interceptors, permissions, status codes, health."""
