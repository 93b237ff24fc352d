"""Clouds are told: a registration opened, planned, run; exports for any other registry."""
