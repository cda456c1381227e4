"""What an operator sees: status, configuration, datasets."""
