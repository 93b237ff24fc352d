"""X.509 without I/O: profiles, templates, issuing, requests, checks."""
