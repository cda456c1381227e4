"""Adapters of the key-encryption key: a file or the environment, AWS KMS, HashiCorp Vault's transit engine."""
