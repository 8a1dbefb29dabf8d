"""The command line: one module a command, reached through ``python -m poolwarden``."""
