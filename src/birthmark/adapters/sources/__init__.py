"""Where a site gets its identities from when it does not make them itself."""
