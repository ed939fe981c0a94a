"""Floor 5: what a person sees of a run."""
