"""The line: one device gets its identity and proves it."""
