"""What every SQL ledger shares: one fold, one set of tables, one way to read them. Dialects stand beside it."""
