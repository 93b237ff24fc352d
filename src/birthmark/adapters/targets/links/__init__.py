"""Links to a device: a serial line with line framing, a shell on either side of it, the OpenSSH client."""
