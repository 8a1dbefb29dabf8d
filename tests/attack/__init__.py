"""What was found by attacking from the sides: one file for each kind of fault."""
