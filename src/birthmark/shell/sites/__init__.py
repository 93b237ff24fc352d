"""Whoever makes elsewhere: grants, set-up of a site, bundles, reports that come home, vendors that preload."""
