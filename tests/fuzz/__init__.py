"""Coverage-guided fuzzing of everything that reads what another host or a directory says (`make fuzz`)."""
