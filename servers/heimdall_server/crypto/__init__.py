"""Envelopes and keys."""
