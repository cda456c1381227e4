"""Personal data in columns: detectors, policy, masking."""
