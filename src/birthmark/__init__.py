"""birthmark gives every IoT device its own X.509 identity at the moment it is made."""

__version__ = "0.1.0"
