"""Which choices decide on accuracy: Optuna's parameter importances."""

from __future__ import annotations

import re

from matplotlib.figure import Figure

from hybridnas.report.style import COLOURS, GREY, SMALL, WIDTH, Drawn, said, styled
from hybridnas.study.run import Run

NUM_BARS = 12


@styled
def importances_figure(run: Run) -> Figure:
    """The choices that matter most for being among the most accurate third of the trials, as bars.

    Raises:
        NotDrawn: as `importances_of`.
    """
    from hybridnas.study.importance import importances_of  # scikit-learn's trees: not for who draws the front alone

    found = importances_of(run.folder)
    shown = [*found.shares.items()][:NUM_BARS]
    figure = Drawn(figsize=(WIDTH, 1.1 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    values = [100 * share for _, share in shown]
    axes.barh(range(len(shown)), values, color=COLOURS[0], height=0.7)
    for i, value in enumerate(values):
        axes.text(value, i, f" {value:.0f}", va="center", fontsize=SMALL)
    axes.set_yticks(range(len(shown)), [in_words(name) for name, _ in shown])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1.08 * max(values))
    epochs = run.config.rungs[found.rung] if run.config.rungs and found.rung < len(run.config.rungs) else "?"
    axes.set_xlabel("importance (%)")
    axes.set_title(
        f"What decides on accuracy ({found.num_trials} trials after {epochs} {'epoch' if epochs == 1 else 'epochs'})"
    )
    if (hidden := len(found.shares) - len(shown)) > 0:
        rest = 100 * sum([*found.shares.values()][NUM_BARS:])
        axes.text(
            0.99, 0.02, f"{hidden} more: {rest:.0f} %", transform=axes.transAxes, ha="right", fontsize=SMALL, color=GREY
        )
    return figure


def in_words(name: str) -> str:
    """A choice as a reader says it; what legal families it is among is left out.

    >>> in_words("stage2.block(mbconv|window)"), in_words("stage1.mbconv.kernel"), in_words("image_size")
    ('stage 2 block', 'stage 1 mbconv kernel', 'image size')
    """
    plain = re.sub(r"\(.*?\)", "", name)
    return said(re.sub(r"^stage(\d+)", r"stage \1", plain).replace(".", " ").replace("_", " "))
