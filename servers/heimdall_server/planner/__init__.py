"""Which tier answers, in what order, at what cost."""
