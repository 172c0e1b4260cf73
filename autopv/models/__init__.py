"""Generator families: the contract in `base`, one family per file."""
