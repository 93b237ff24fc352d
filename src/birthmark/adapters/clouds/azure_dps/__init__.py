"""Azure IoT Hub Device Provisioning Service as a cloud that is told of devices (docs/clouds/azure-dps.md)."""

from birthmark.adapters.clouds.azure_dps.cloud import AzureDpsCloud

__all__ = ["AzureDpsCloud"]
