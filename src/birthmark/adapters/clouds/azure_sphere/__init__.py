"""Azure Sphere: the CA that Microsoft runs for a catalog, made known to a provisioning service."""

from birthmark.adapters.clouds.azure_sphere.cloud import AzureSphereCloud

__all__ = ["AzureSphereCloud"]
