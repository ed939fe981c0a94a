"""Floor 3: what an architecture costs on the target device."""
