"""`make soak`: a server under a steady load for a long time; its memory and its descriptors must stay flat."""
