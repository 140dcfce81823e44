"""Settlement: battles become rewards in a double-entry ledger, each once."""
