"""Evidence: what the log says, counted for people."""
