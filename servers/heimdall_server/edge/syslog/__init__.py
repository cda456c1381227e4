"""Syslog over TLS, TCP and UDP: bytes from sockets to `PushUseCase`."""
