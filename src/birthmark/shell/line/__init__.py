"""A station at work: its heads, what it asks of a device, the source it draws from, the session that programs share."""
