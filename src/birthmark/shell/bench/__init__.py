"""Benches: each measures a floor or a peer in the same run and reports the ratio."""
