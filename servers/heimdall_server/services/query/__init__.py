"""Questions: Search, Watch, Explain, fields."""
