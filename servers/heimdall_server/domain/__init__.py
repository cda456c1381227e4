"""Values, rules, errors and invariants. Imports the standard library and Arrow or NumPy types only."""
