"""Test parts for whoever builds on birthmark: devices that are programs (docs/testing.md)."""
