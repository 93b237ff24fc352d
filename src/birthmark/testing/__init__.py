"""Test parts: devices that stand on no table, for the tests of whoever builds a line (docs/testing.md)."""
