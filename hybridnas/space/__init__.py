"""A search space: which architectures there are, in a YAML file that a person can read and change.

A space is sampled by any `choose(name, values) -> value`: Optuna's trial, a random generator, a lookup. Every sample
is legal. A name is asked always with the same values: where the legal ones depend on what was chosen before, the name
says which they are.
"""

from hybridnas.space.points import Choose
from hybridnas.space.shipped import shipped_spaces
from hybridnas.space.space import SearchSpace

__all__ = ["Choose", "SearchSpace", "shipped_spaces"]
