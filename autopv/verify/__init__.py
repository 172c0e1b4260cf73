"""The proof: controls, blocks of fresh seeds, statistics, verdict."""
