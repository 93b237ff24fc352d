"""Azure Device Provisioning Service."""

__all__: list[str] = []
