"""Engines: who makes keys and signatures in bulk."""
