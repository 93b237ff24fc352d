"""The terminal view of one place on the line: scan, see, next (docs/tutorials/operator.md)."""
