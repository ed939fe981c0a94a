"""Floor 4: the search; all that knows Optuna."""
