"""Which known design to start from: the selection guide, answered by measurements on the device at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hybridnas import zoo
from hybridnas.errors import BudgetError, ConfigError


@dataclass(frozen=True)
class Situation:
    """A row of the guide: the designs that suit it, and the space whose search starts from their like."""

    meaning: str
    designs: tuple[str, ...]
    space: str


SITUATIONS: dict[str, Situation] = {
    "server": Situation(
        "accuracy first, a large machine",
        ("coatnet_0_rw_224", "coatnet_2_rw_224", "vit_base_patch16_224", "vit_large_patch16_224"),
        "server",
    ),
    "backbone": Situation(
        "features of several scales for detection or segmentation",
        ("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"),
        "server",
    ),
    "general": Situation("no special wishes", ("convnext_tiny", "convnext_base"), "hybrid"),
    "mobile": Situation("a phone", ("mobilevit_s", "fastvit_t8", "fastvit_sa12"), "mobile"),
    "edge": Situation("a small board or a CPU", ("efficientformer_l1", "edgevit_xxs"), "edge"),
    "small-data": Situation("a few thousand images", ("convnext_tiny", "efficientnet_b0"), "small_data"),
    "self-supervised": Situation("many images, few labels", ("vit_small_patch14_dinov2",), "server"),
}

# Without a budget accuracy must be weighed against time. Between neighbouring sizes of one family the zoo gains 1 to 2
# points for each doubling of the time (ConvNeXt-T to B, EfficientViT-B1 to B2).
POINTS_PER_DOUBLING = 1.5


@dataclass(frozen=True)
class Recommendation:
    """The design to start from, and why."""

    design: str
    reason: str


def recommend(situation: str, latency_ms: Mapping[str, float], budget_ms: float | None = None) -> Recommendation:
    """The design for a situation, from milliseconds measured on the device and published accuracy.

    Args:
        situation: A key of `SITUATIONS`.
        latency_ms: Median milliseconds of designs: of the situation's own, and of any others that may stand in where
            none of those holds the budget.
        budget_ms: What the median may be. With it the most accurate design within wins; without, accuracy counts
            against the logarithm of the time.

    Raises:
        ConfigError: no such situation.
        BudgetError: none of the measured designs holds the budget.
    """
    guide = situation_of(situation)
    own = {name: ms for name, ms in latency_ms.items() if name in guide.designs}
    if budget_ms is None:
        best = max(own, key=lambda name: zoo.entry(name).top1 - POINTS_PER_DOUBLING * math.log2(own[name]))
        others = len(own) - 1
        reason = (
            "the only design of the guide"
            if not others
            else (
                f"the best of {len(own)} when {POINTS_PER_DOUBLING} points of accuracy are worth a doubling of the time"
            )
        )
        return Recommendation(best, reason)
    for candidates, whose in (
        (own, f"the guide's {len(own)}"),
        (latency_ms, f"the whole zoo, since none of the guide's {len(own)} is"),
    ):
        within = [name for name, ms in candidates.items() if ms <= budget_ms]
        if within:
            best = max(within, key=lambda name: (zoo.entry(name).top1, -candidates[name]))
            return Recommendation(best, f"the most accurate within {budget_ms:g} ms of {whose}")
    fastest = min(latency_ms, key=lambda name: latency_ms[name])
    raise BudgetError(
        f"No design of the zoo holds {budget_ms:g} ms here: the fastest, {fastest}, takes "
        f"{latency_ms[fastest]:.3g} ms. Search among smaller ones: "
        f"python -m hybridnas.search --space {guide.space} --budget-ms {budget_ms:g}."
    )


def situation_of(name: str) -> Situation:
    """The row of the guide.

    Raises:
        ConfigError: no such situation.
    """
    if name not in SITUATIONS:
        raise ConfigError(f"--situation must be one of {', '.join(SITUATIONS)}, got {name!r}.")
    return SITUATIONS[name]


def measure_and_recommend(
    situation: str, measure: Callable[[tuple[str, ...]], Mapping[str, float]], budget_ms: float | None = None
) -> tuple[Recommendation, dict[str, float]]:
    """The answer and the milliseconds behind it; the rest of the zoo is measured only where the guide has no answer.

    Raises:
        ConfigError: no such situation, or a budget that nothing can hold.
        BudgetError: no design of the zoo holds the budget.
    """
    if budget_ms is not None and not budget_ms > 0:
        raise ConfigError(f"--budget-ms must be greater than 0, got {budget_ms:g}.")
    latency_ms = dict(measure(situation_of(situation).designs))
    if budget_ms is not None and min(latency_ms.values()) > budget_ms:
        latency_ms |= measure(tuple(name for name in zoo.names() if name not in latency_ms))
    return recommend(situation, latency_ms, budget_ms), latency_ms
