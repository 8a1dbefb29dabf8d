"""Everything that runs in the parent process and names no host."""
