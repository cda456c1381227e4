"""Facts of other programs: STIX and MISP read, protected and kept; what is here given out as STIX."""
