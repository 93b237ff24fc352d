"""A workspace: its settings, secrets, ledger and files, and the wiring that makes working objects of them."""
