"""Technologies behind the ports, one a file; families never import one another."""
