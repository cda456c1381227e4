"""Heimdall's servers; `servers/README.md` says what lives where and who may import whom."""
