"""AWS IoT Core."""

__all__: list[str] = []
