"""Documents that leave a process, each versioned and specified. No I/O, no clock, no entropy."""
