"""What the kinds of operations do, step by step, each safe to repeat after a crash anywhere."""
