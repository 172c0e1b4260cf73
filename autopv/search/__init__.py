"""The search: budget, ledger, study, trials on Ray Tune, and the driver. The only part that imports ray."""
