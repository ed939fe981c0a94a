"""Floor 3: short training."""
