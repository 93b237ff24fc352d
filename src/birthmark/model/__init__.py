"""Facts and their lawful changes. No I/O, no clock, no entropy."""
