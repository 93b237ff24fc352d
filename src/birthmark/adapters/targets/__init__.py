"""Places in a device where a credential is installed."""
