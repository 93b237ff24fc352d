"""AWS IoT as a cloud that is told of devices (docs/clouds/aws-iot.md)."""

from birthmark.adapters.clouds.aws_iot.cloud import AwsIotCloud

__all__ = ["AwsIotCloud"]
