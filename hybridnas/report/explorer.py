"""The explorer of a run: one HTML page with every trial in it, which opens offline.

`facts` says what it shows; how that looks is in page/: a frame, a style and scripts, which all go into the one file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from hybridnas.files import write_atomic
from hybridnas.report.facts import facts
from hybridnas.study.run import Run

PAGE = Path(__file__).parent / "page"
#: In the order in which they are put together.
SCRIPTS = ("words.js", "drawing.js", "plot.js", "table.js", "panels.js", "explorer.js")


def write_explorer(run: Run, path: Path, others: Sequence[Run] = ()) -> None:
    """Write a run as one page: to look at, to filter, to sort, to click.

    Args:
        run: The run.
        path: The HTML file.
        others: Runs whose fronts are drawn beside it, where their figures compare.

    Raises:
        RunError: trust.json, or a stage's milliseconds, are damaged.
        ArchitectureError: a trial's architecture is.
    """
    write_atomic(path, page(facts(run, others)))


def page(found: dict[str, Any]) -> str:
    """The page that shows what `facts` found."""
    from plotly.offline import get_plotlyjs

    # The hint that all of it is called at once saves Chromium reading it over and over: a fifth of the opening.
    plotly = f"//# allFunctionsCalledOnLoad\n{get_plotlyjs()}"
    script = "\n".join((PAGE / name).read_text("utf-8") for name in SCRIPTS)
    return Template((PAGE / "page.html").read_text("utf-8")).substitute(
        # Only these two scripts run, whatever else should get into the page.
        allowed=" ".join(f"'sha256-{_digest(text)}'" for text in (plotly, script)),
        style=(PAGE / "page.css").read_text("utf-8"),
        facts=in_script(found),
        plotly=plotly,
        script=script,
    )


def in_script(found: dict[str, Any]) -> str:
    """JSON that cannot end the script element in which it lies."""
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
