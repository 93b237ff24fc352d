"""Third parties that sign for us: one protocol a file."""
