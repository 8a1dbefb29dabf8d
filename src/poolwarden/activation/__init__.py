"""The ways in: calls in the user's code, and none."""
