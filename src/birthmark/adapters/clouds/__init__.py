"""Clouds and registries that are told of devices (`ports.Cloud`), one technology a package."""
