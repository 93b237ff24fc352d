"""A registry as a directory of plain files (docs/register.md): ``export:DIRECTORY``."""

from birthmark.adapters.clouds.export.cloud import ExportCloud

__all__ = ["ExportCloud"]
