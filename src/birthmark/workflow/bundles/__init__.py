"""Bundles: an order travels to its site."""
