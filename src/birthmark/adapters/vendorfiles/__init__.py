"""Files of chip vendors: manifests, lists and bundles of certificates, read a piece at a time."""

from birthmark.adapters.vendorfiles.manifest import VendorFile
from birthmark.adapters.vendorfiles.spool import FileSpool

__all__ = ["FileSpool", "VendorFile"]
