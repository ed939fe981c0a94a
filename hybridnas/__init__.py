"""hybridnas: finds the vision backbone that mixes convolution, window and global attention best, for your device.

The names below are imported when they are first used, so that `import hybridnas` costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridnas import zoo
    from hybridnas.architecture import Architecture, Head, Stage, Stem, Transition
    from hybridnas.config import SearchConfig
    from hybridnas.model import build
    from hybridnas.pipeline import run_search
    from hybridnas.profiling import profile_models
    from hybridnas.space import SearchSpace
    from hybridnas.study.run import Run

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "architecture",
    "Stem": "architecture",
    "Transition": "architecture",
    "Stage": "architecture",
    "Head": "architecture",
    "SearchConfig": "config",
    "SearchSpace": "space",
    "build": "model",
    "profile_models": "profiling",
    "run_search": "pipeline",
    "Run": "study.run",
}

__all__ = [
    "Architecture",
    "Head",
    "Run",
    "SearchConfig",
    "SearchSpace",
    "Stage",
    "Stem",
    "Transition",
    "build",
    "profile_models",
    "run_search",
    "zoo",
]


if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "zoo":
            return import_module("hybridnas.zoo")
        if name in _HOMES:
            return getattr(import_module(f"hybridnas.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'hybridnas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
