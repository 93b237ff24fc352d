"""The authority's service: HTTPS for sites, auditors and whoever needs the public files (docs/service.md)."""
