"""Live queries: history from the store, then the journal, without a gap or a repeat at the seam."""
