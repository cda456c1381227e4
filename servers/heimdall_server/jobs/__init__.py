"""What runs by the clock: retention, trimming."""
