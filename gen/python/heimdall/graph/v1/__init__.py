"""Generated from proto/; run make gen, never edit."""
