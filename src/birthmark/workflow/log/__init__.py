"""The log: heads, tiles, witnesses."""
