"""Orders: which devices shall exist, and their identities made by the thousand."""
