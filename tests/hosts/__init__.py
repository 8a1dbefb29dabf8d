"""One binding (`bind_*.py`) and one test file for each host that poolwarden guards."""
