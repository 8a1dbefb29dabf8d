"""joblib.Parallel, and what puts its tasks into it."""
