"""The independent audit: reads a ledger and a log that it did not write, with code the writer does not have."""
