"""Orders made in bulk: by our own engines and CAs, or by a service that signs."""
