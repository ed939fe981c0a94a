"""How long the explorer of a large run takes to open: README.md has the question and the findings."""

from __future__ import annotations

import argparse
import math
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

from playwright.sync_api import sync_playwright

from hybridnas import Run, SearchConfig, SearchSpace
from hybridnas.architecture import LETTERS
from hybridnas.cost.budget import Cost
from hybridnas.cost.predict import Counter
from hybridnas.cost.table import Table
from hybridnas.report.explorer import write_explorer
from hybridnas.study.records import TrialRecord, header, line

BUDGET_MS = 5.0
ROUNDS = 5
MEASURED = ("opened", "opened under playwright", "filtered", "sorted", "clicked")


def made_up_run(folder: Path, num_trials: int, trained_share: float) -> Run:
    """Random architectures of `tiny`, counted for real; their milliseconds and accuracies are made up."""
    generator = random.Random(0)
    space, records = SearchSpace.load("tiny"), []
    with closing(Table()) as table:
        counter = Counter(table, num_classes=16)
        for number in range(num_trials):
            architecture = space.sample(lambda _, values: generator.choice(values))
            macs, params = counter.count(architecture)
            attend = sum(stage.depth for stage in architecture.stages if LETTERS[stage.block] == "T")
            p50 = macs / 2e6 + 0.35 * attend + generator.uniform(0.2, 0.9)
            cost = Cost(
                macs, params, p50, 1.2 * p50, p50 * generator.gauss(1, 0.03), "cpu", 1, 0.97 * p50, 1.03 * p50, 200
            )
            accuracy = 0.86 - 0.45 * math.exp(-macs / 4e6) + 0.008 * min(attend, 3) + generator.gauss(0, 0.02)
            held, last = p50 <= BUDGET_MS, generator.random() < trained_share
            records.append(
                TrialRecord(
                    number,
                    architecture,
                    "",
                    ("complete" if last else "pruned") if held else "infeasible",
                    "" if held else f"{p50:.3g} ms over {BUDGET_MS:g} ms",
                    (cost,),
                    (0.4 * accuracy, 0.8 * accuracy, accuracy)[: 3 if last else 1] if held else (),
                    20.0,
                    number,
                    p50 if held else None,
                    1 if last else 0,
                )
            )
    config = SearchConfig(
        space="tiny", target="cpu", budget_ms=BUDGET_MS, epochs=3, rungs=(1, 3), threads=1, trials=num_trials
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "trials.csv").write_text(header(records[0]) + "".join(map(line, records)))
    return Run.load(folder)


def opening_alone(page_file: Path) -> float:
    """What the page says itself: seconds from the address until all is drawn, nobody looking into the browser."""
    arguments = "--headless --no-sandbox --disable-gpu --window-size=1280,900 --dump-dom".split()
    done = subprocess.run(["chromium", *arguments, page_file.as_uri()], capture_output=True, text=True, check=True)
    said = re.search(r'data-ready="(\d+)"', done.stdout)
    assert said, "not drawn when its document was dumped"
    return int(said[1]) / 1e3


def seconds(page_file: Path) -> dict[str, float]:
    """Until the page says that all is drawn; then those of one move of a slider, one sort and one click, each drawn."""
    found = {"opened": opening_alone(page_file)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]")
        found["opened under playwright"] = time.perf_counter() - started
        slider = (
            "const s = document.querySelector('#limits input'); s.value = 100; s.dispatchEvent(new Event('input'));"
        )
        for name, action in (
            ("filtered", slider),
            ("sorted", "document.querySelector('#table th button').click()"),
            ("clicked", "document.querySelector('#table tbody tr').click()"),
        ):
            # Drawn: two frames after all that the action set off, the delayed drawing of the plot, too.
            frames = "requestAnimationFrame(() => requestAnimationFrame(done))"
            wait = f"await new Promise((done) => setTimeout(() => {frames}, 50));"
            found[name] = page.evaluate(
                f"async () => {{ const t = performance.now(); {action}; {wait} return (performance.now() - t) / 1e3; }}"
            )
        browser.close()
    return found


def main() -> None:
    """Print a line for each size of run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--trained", type=float, default=1.0, help="share of what holds the budget")
    parser.add_argument("--keep", type=Path, help="leave the pages in this folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for num_trials in given.trials:
            run = made_up_run(Path(temporary) / str(num_trials), num_trials, given.trained)
            page_file = (given.keep or Path(temporary)) / f"explorer-{num_trials}.html"
            started = time.perf_counter()
            write_explorer(run, page_file)
            written = time.perf_counter() - started
            rounds = [seconds(page_file) for _ in range(ROUNDS)]
            counts = run.trials.status.value_counts()
            print(
                f"{num_trials} trials ({counts.get('complete', 0)} trained, {counts.get('pruned', 0)} stopped early): "
                f"written in {written:.2f} s, {page_file.stat().st_size / 1e6:.1f} MB; medians of {ROUNDS}: "
                + ", ".join(f"{name} {statistics.median(each[name] for each in rounds):.2f} s" for name in MEASURED)
                + f"; slowest opening {max(each['opened'] for each in rounds):.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
