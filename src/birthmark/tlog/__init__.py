"""The transparency log without I/O: the C2SP formats over RFC 6962 trees (``docs/formats/log.md``)."""
