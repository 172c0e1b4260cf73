"""Training of one model on one policy: the plan, the loop, checkpoints."""
