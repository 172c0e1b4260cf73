"""The search: budget, ledger, study, trials on Ray Tune, and the driver that runs them. The only part that imports ray."""
