"""Floor 3: what an architecture costs on the target device. `count_macs` is public here, imported when first used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridnas.cost.macs import count_macs

__all__ = ["count_macs"]


def __getattr__(name: str) -> Any:
    if name == "count_macs":
        from hybridnas.cost.macs import count_macs

        return count_macs
    raise AttributeError(f"module 'hybridnas.cost' has no attribute {name!r}")
