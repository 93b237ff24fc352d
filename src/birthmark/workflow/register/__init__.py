"""Registries and clouds are told what was made: read the log by a cursor, tell, compare."""
