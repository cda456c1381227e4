"""What follows the journal with a checkpoint of its own: the warm tier, watches."""
