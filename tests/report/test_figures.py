"""What the figures show, against figures worked out by hand, and that they can be drawn of any run."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from folders import BASELINES, NUM_CLASSES, write_run
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from PIL import Image

from hybridnas import Run, SearchConfig, zoo
from hybridnas.errors import NotDrawn, WorkerError
from hybridnas.palette import FAMILY_COLOURS
from hybridnas.report.agreement import confirmed_of, foreseen, latency_figure, proxy_figure, trusted_of
from hybridnas.report.drawing import draw_architecture, parts_of, stage_ms_of
from hybridnas.report.figures import FIGURES, draw_all, drawn_beside
from hybridnas.report.fronts import macs_figure, pareto_figure
from hybridnas.report.history import history_figure, history_of
from hybridnas.report.importances import importances_figure
from hybridnas.report.operators import _best, ranks, wins_of
from hybridnas.report.style import COLOURS, DASHES, MARKERS, SMALL, WIDTH, Drawn, said, save, text_on
from hybridnas.study.importance import _ended, importances, importances_of
from hybridnas.study.looking import read_only
from hybridnas.study.records import COLUMNS, typed

#: A name that matplotlib would take for mathematics, and could not read.
ODD = "$\\bad{ <b> 100% a_b"


def run_of(rows: list[dict[str, object]], *, result: dict[str, object] | None = None, **settings: object) -> Run:
    """A run of trials of which only this is known."""
    every = [{"number": i, "status": "complete", "rung": 1, "families": "", **row} for i, row in enumerate(rows)]
    config = SearchConfig(**{"target": "cpu", "space": "tiny", **settings})  # type: ignore[arg-type]
    return Run(Path("nowhere"), config, typed(pd.DataFrame(every, columns=COLUMNS)), result or {})


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 trials, with all that a run can have."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return write_run(folder, trials=40, study=True, fails=[20, 21], result={"baselines": BASELINES})


def test_every_figure_is_drawn_as_png_and_svg_and_twice_alike(whole: Path) -> None:
    run = Run.load(whole)
    assert draw_all(run, whole / "figures") == {}
    kinds = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    written = {path.name: path.read_bytes() for path in (whole / "figures").iterdir()}
    assert written.keys() == kinds
    assert all(
        content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml") for name, content in written.items()
    )
    assert (whole / "pareto.png").read_bytes() == written["pareto.png"]
    for name in ("pareto", "architecture"):
        save(FIGURES[name](Run.load(whole)), whole / "again.svg", whole / "again.png")
        assert (whole / "again.svg").read_bytes() == written[f"{name}.svg"]
        assert (whole / "again.png").read_bytes() == written[f"{name}.png"]


def test_a_long_run_is_drawn_beside_what_else_is_done(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run.load(Path(shutil.copytree(whole, tmp_path / "run")))
    (run.folder / "study.db").unlink()
    monkeypatch.setattr("hybridnas.report.figures.MANY_TRIALS", len(run.trials))
    with drawn_beside(run, tmp_path / "beside") as drawn:
        assert multiprocessing.active_children()
        assert drawn() == draw_all(run, tmp_path / "here") != {}
    assert not multiprocessing.active_children()
    beside, here = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("beside", "here")
    )
    assert beside == here and len(here) == 2 * len(FIGURES) - 2
    assert capfd.readouterr().err == ""


def test_what_goes_wrong_beside_is_said(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridnas.report.figures.MANY_TRIALS", 0)
    run = Run.load(whole)
    (tmp_path / "a file").touch()
    with drawn_beside(run, tmp_path / "a file") as drawn, pytest.raises(OSError, match="a file"):
        drawn()
    with drawn_beside(run, tmp_path / "figures") as drawn:
        multiprocessing.active_children()[0].kill()
        with pytest.raises(WorkerError, match=r"the process that draws ended"):
            drawn()


CASES = {
    "one trial": ({"trials": 1, "budget_ms": 1000.0}, set()),
    "no budget, no winner": ({"trials": 20, "budget_ms": None, "winner": False}, {"proxy"}),
    "a budget of multiply-adds": ({"trials": 20, "budget_ms": None, "budget_macs": 1.5e7}, set()),
    "latencies from the table": ({"trials": 20, "frozen_table": True}, {"latency"}),
    "two targets": ({"trials": 20, "target": ("cpu", f"command:{ODD} {{model}}"), "budget_ms": (12.0, 30.0)}, set()),
    "two targets, no budget": ({"trials": 20, "target": ("cpu", "cuda"), "budget_ms": None}, set()),
    "300 trials": ({"trials": 300, "seed": 3}, set()),
    "odd names": ({"trials": 20, "data": f"/data/{ODD}.npz", "space": f"{ODD}.yaml"}, set()),
    "around a design": ({"trials": 20, "space": None, "around": "levit_128"}, set()),
    "nothing trained to the end": ({"trials": 20, "budget_ms": 0.1}, set(FIGURES) - {"pareto", "pareto_macs"}),
}


@pytest.mark.parametrize("case", CASES)
def test_figures_of(case: str, tmp_path: Path) -> None:
    settings, missing = CASES[case]
    run = Run.load(write_run(tmp_path / ODD.replace("/", ""), **settings))  # type: ignore[arg-type]
    for name, draw in FIGURES.items():
        if name in missing | {"importances"}:  # no study is written here
            with pytest.raises(NotDrawn, match=r"\w"):
                draw(run)
        else:
            assert draw(run).axes


def test_a_name_is_shown_as_it_is(tmp_path: Path) -> None:
    baselines = [{**BASELINES[0], "name": ODD}]
    odd = f"/data/{ODD}.npz"
    run = Run.load(write_run(tmp_path / "run", trials=6, data=odd, target=ODD, result={"baselines": baselines}))
    run.trials.loc[run.trials.status == "complete", "design"] = f"_{ODD}"
    figure = pareto_figure(run)
    save(figure, tmp_path / "odd.svg", tmp_path / "odd.png")
    shown = texts(figure)
    assert ODD in shown and f"_{ODD}" in shown
    assert any(line.endswith(f"trained on {ODD}") for text in shown for line in text.splitlines())
    assert any(f"latency on {ODD}, torch" in text for text in shown)


def test_pareto_names_what_was_confirmed_and_the_baselines(whole: Path) -> None:
    run = Run.load(whole)
    shown = texts(pareto_figure(run))
    assert {"winner", "confirmed, 6 epochs, 2 seeds", "budget 12 ms", "front after 3 epochs", "levit_128s"} <= {*shown}
    assert "timm, same training" in shown and "zoo, from its weights" in shown
    counts = run.trials.status.value_counts()
    assert any(f"{counts['pruned']} stopped at a rung" in text and "2 failed" in text for text in shown)


def test_intervals_are_drawn_as_they_were_found(whole: Path) -> None:
    run = Run.load(whole)
    (axes,) = pareto_figure(run).axes
    (line,) = [each for each in axes.lines if each.get_label() == "front after 3 epochs"]
    assert len(run.front()) > 2
    np.testing.assert_allclose(line.get_xydata(), run.front()[["latency_ms_p50", "accuracy"]].to_numpy() * (1, 100))
    trained = run.trials[run.trials.status == "complete"]
    points = np.concatenate([each.get_offsets() for each in axes.collections if len(each.get_offsets())])
    for x, y in trained[["latency_ms_p50", "accuracy"]].to_numpy(float):
        assert np.isclose(points, [x, 100 * y]).all(1).any()
    (thin,) = [each for each in axes.collections if each.get_label() == "95 % interval"]
    ends = trained[["latency_ms_low", "latency_ms_high"]].to_numpy(float)
    heights = np.broadcast_to(100 * trained.accuracy.to_numpy(float)[:, None], ends.shape)
    np.testing.assert_allclose(np.array(thin.get_segments()), np.stack([ends, heights], -1))
    bars = [each for each in axes.containers if isinstance(each, ErrorbarContainer)]
    for row, bar in zip(run.result["confirmed"], bars, strict=True):
        (segment,) = bar.lines[2][0].get_segments()
        accuracies = [100 * (row["accuracy"] + sign * row["margin"]) for sign in (-1, 1)]
        np.testing.assert_allclose(segment, [[row["latency_ms_p50"], y] for y in accuracies])


def test_the_front_of_multiply_adds_has_the_budget_and_the_baselines(tmp_path: Path) -> None:
    settings = {"trials": 20, "budget_ms": None, "budget_macs": 1.5e7, "result": {"baselines": BASELINES}}
    run = Run.load(write_run(tmp_path / "run", **settings))
    figure = macs_figure(run)
    (axes,) = figure.axes
    (line,) = [each for each in axes.lines if each.get_label() == "front after 3 epochs"]
    macs, accuracies = np.asarray(line.get_xydata()).T
    trained = run.trials[run.trials.status == "complete"]
    assert accuracies[-1] == pytest.approx(100 * trained.accuracy.max()) and (np.diff(accuracies) > 0).all()
    assert (np.diff(macs) > 0).all() and macs[0] == pytest.approx(trained.macs.min() / 1e6)
    assert {"budget 15 M", *(said(row["name"], 24) for row in BASELINES)} <= {*texts(figure)}
    assert [15.0, 15.0] in [list(line.get_xdata()) for line in axes.lines]
    places = np.concatenate([np.asarray(each.get_offsets()) for each in axes.collections if len(each.get_offsets())])
    for row in BASELINES[:2]:  # the third is a known layout of the space
        assert np.isclose(places, [row["macs"] / 1e6, 100 * row["accuracy"]]).all(1).any(), row["name"]


def test_a_baseline_is_drawn_in_the_panel_of_each_target_where_it_was_timed(tmp_path: Path) -> None:
    row = {**BASELINES[0], "targets_ms": [6.5, 21.0]}
    settings = {"trials": 20, "target": ("cpu", "cuda"), "budget_ms": (12.0, 30.0)}
    figure = pareto_figure(Run.load(write_run(tmp_path / "run", **settings, result={"baselines": [row, BASELINES[1]]})))
    for ms, other, axes in zip(row["targets_ms"], (8.0, None), figure.axes, strict=True):
        places = np.concatenate(
            [np.asarray(each.get_offsets()) for each in axes.collections if len(each.get_offsets())]
        )
        assert np.isclose(places, [ms, 67.5]).all(1).any()
        assert np.isclose(places[:, 1], 84.0).any() == (other is not None)


@pytest.mark.parametrize("name", FIGURES)
def test_all_words_are_large_enough_and_inside(name: str, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 points at least: printed 8.5 cm wide these have 5, below which no journal goes."""
    drawn: dict[Text, None] = {}
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (drawn.setdefault(self), draw(self, renderer))[1])
    figure = FIGURES[name](Run.load(whole))
    figure.draw_without_rendering()
    shown = [text for text in drawn if text.get_visible() and text.get_text().strip()]
    assert len(shown) > 5 and figure.get_size_inches()[0] == WIDTH
    box = figure.bbox
    for text in shown:
        assert text.get_fontsize() >= SMALL and SMALL * 8.5 / 2.54 / WIDTH > 5, text
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1, text


#: How dichromats see linear RGB: Machado, Oliveira and Fernandes (2009), table 1, severity 1.
DICHROMATS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(colour: str, seen: object = np.eye(3)) -> np.ndarray:  # noqa: B008
    """CIE L*a*b* (D65) of '#RRGGBB' as somebody sees it."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ (np.asarray(seen) @ linear).clip(0, 1) / to_xyz.sum(1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / 3 * (29 / 6) ** 2 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


CORE = ("mbconv", "convnext", "window", "global")


@pytest.mark.parametrize("sight", DICHROMATS)
@pytest.mark.parametrize(("one", "other"), [*combinations(CORE, 2)])
def test_core_families_stay_apart_in_every_eye(one: str, other: str, sight: str) -> None:
    seen = [lab(FAMILY_COLOURS[name], DICHROMATS[sight]) for name in (one, other)]
    assert np.linalg.norm(seen[0] - seen[1]) > 10  # CIE 1976


@pytest.mark.parametrize("sight", DICHROMATS)
def test_all_families_can_be_told_apart_in_every_eye(sight: str) -> None:
    """By over twice what is just noticed; no figure of one run shows nearly all of them, and each says its name."""
    seen = {name: lab(colour, DICHROMATS[sight]) for name, colour in FAMILY_COLOURS.items()}
    near = min(float(np.linalg.norm(seen[one] - seen[other])) for one, other in combinations(seen, 2))
    assert len(seen) == 12 and near > 5


@pytest.mark.parametrize("sight", DICHROMATS)
def test_layouts_and_methods_can_be_told_apart_in_every_eye_and_in_grey(sight: str, whole: Path) -> None:
    seen = [lab(colour, DICHROMATS[sight]) for colour in COLOURS]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 5
    assert len(COLOURS) == len({*MARKERS}) == len(MARKERS) == len({*map(str, DASHES)})
    (axes,) = pareto_figure(Run.load(whole)).axes
    groups = [each for each in axes.collections if isinstance(each, PathCollection) and each.zorder == 3]
    forms = [each.get_paths()[0].vertices.tobytes() for each in groups]
    assert len(forms) > 2 and len({*forms}) == len(forms)


def test_convolution_and_attention_stay_apart_in_grey() -> None:
    light = {name: lab(FAMILY_COLOURS[name])[0] for name in CORE}
    assert all(abs(light[one] - light[other]) > 10 for one in CORE[:2] for other in CORE[2:])


def test_history_is_the_area_above_chance_and_below_the_budget() -> None:
    rows = [
        {"accuracy": 0.8, "worst_latency": 8.0, "ended": 20.0},
        {"accuracy": 0.6, "worst_latency": 5.0, "ended": 10.0},
        {"accuracy": 0.9, "worst_latency": 9.0, "ended": 5.0, "status": "pruned"},
        {"accuracy": 0.2, "worst_latency": 1.0, "ended": 30.0},  # below chance
    ]
    found = history_of(run_of(rows, budget_ms=10.0, result={"num_classes": 4}))
    assert found.seconds.tolist() == [10, 20, 30] and found.best.tolist() == [0.6, 0.8, 0.8]
    areas = [0.35 * 5, 0.35 * 3 + 0.55 * 2, 0.35 * 3 + 0.55 * 2]
    assert found.hypervolume == pytest.approx(np.array(areas) / (10 * 0.75))
    several = [row | {"status": row.get("status", "complete")} for row in rows]
    for budget, said_so in ((10.0, "below 1 budgets"), (None, "below 8 times the reference network")):
        figure = history_figure(run_of(several, budget_ms=budget, target=("cpu", "ssh://pi@edge")))
        assert any(said_so in text for text in texts(figure))
    unbound = history_of(run_of(rows))
    assert unbound.worst == 8 and unbound.floor == 0
    assert unbound.hypervolume[1] == pytest.approx(0.6 * 3 / 8)


def test_what_is_on_the_front_has_rank_one_and_what_was_stopped_comes_behind() -> None:
    rows = [
        {"accuracy": 0.8, "worst_latency": 8.0},
        {"accuracy": 0.6, "worst_latency": 5.0},
        {"accuracy": 0.5, "worst_latency": 6.0},
        {"accuracy": 0.99, "worst_latency": 1.0, "status": "pruned", "rung": 0},
        {"accuracy": 0.98, "worst_latency": 1.0, "status": "pruned", "rung": 0},
    ]
    assert ranks(run_of(rows).trials).tolist() == [1, 1, 2, 3, 4]


def test_a_gain_is_the_mean_weight_over_that_of_the_stage() -> None:
    rows = [
        {"accuracy": 0.9, "worst_latency": 1.0, "families": "mbconv-global"},  # weighs 1
        {"accuracy": 0.8, "worst_latency": 2.0, "families": "mbconv"},  # 1/2
        {"accuracy": 0.7, "worst_latency": 3.0, "families": "window-mbconv"},  # 1/3
        {"accuracy": 0.6, "worst_latency": 4.0, "families": "mbconv-mbconv"},  # 1/4
    ]
    wins = wins_of(run_of(rows))
    assert wins.rows == ["mbconv", "window", "global", "convolution", "attention"]
    assert wins.tried.tolist() == [[3, 2], [1, 0], [0, 1], [3, 2], [1, 1]]
    first, second = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, (1 + 1 / 3 + 1 / 4) / 3
    assert wins.gain[0, 0] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3 / first)
    assert wins.gain[1, 0] == pytest.approx(1 / 3 / first)
    assert wins.gain[2, 1] == pytest.approx(1 / second)
    assert math.isnan(wins.gain[1, 1])


@pytest.mark.parametrize(
    ("gain", "tried", "best"),
    [
        ([1.0, 2.0], [3, 3], 1),
        ([1.9, 2.0], [3, 3], None),  # hardly better
        ([1.0, 2.0], [3, 2], None),  # hardly tried, and the other has nothing to beat
        ([1.0, 3.0, 2.0], [3, 2, 3], 2),
        ([math.nan, 2.0], [0, 9], None),
    ],
)
def test_who_wins_a_stage_was_tried_often_enough_and_leads(
    gain: list[float], tried: list[int], best: int | None
) -> None:
    assert _best(np.array(gain), np.array(tried)) == best


def test_gains_weighed_by_how_often_each_was_tried_are_one(whole: Path) -> None:
    wins = wins_of(Run.load(whole))
    families = len(wins.rows) - 2
    for part in (slice(0, families), slice(families, None)):
        assert np.nansum(wins.gain[part] * wins.tried[part], 0) == pytest.approx(wins.tried[part].sum(0))


def test_a_notebook_shows_a_figure(whole: Path) -> None:
    data, on_page = pareto_figure(Run.load(whole))._repr_png_()  # type: ignore[attr-defined]
    with Image.open(io.BytesIO(data)) as image:
        assert (image.width, image.height) == (2 * on_page["width"], 2 * on_page["height"])


def test_predicted_and_measured() -> None:
    rows = [
        {"predicted_ms": 1.0, "latency_ms_p50": 1.0},
        {"predicted_ms": 2.1, "latency_ms_p50": 2.0},
        {"predicted_ms": 3.0, "latency_ms_p50": 4.0},
        {"predicted_ms": 9.0},
    ]
    found = foreseen(run_of(rows))
    assert found.error == pytest.approx(0.05) and found.near == pytest.approx(2 / 3)
    with pytest.raises(NotDrawn):
        foreseen(run_of(rows[3:]))
    (axes,) = latency_figure(run_of(rows)).axes
    points = [each.get_offsets() for each in axes.collections if len(each.get_offsets()) == 3]
    np.testing.assert_allclose(points[0], [(1.0, 1.0), (2.0, 2.1), (4.0, 3.0)])  # measured, predicted


def test_short_trainings_stand_across_and_longer_ones_up(whole: Path) -> None:
    run = Run.load(whole)
    rows = [
        {"number": i, "accuracy_in_search": short, "accuracy": long, "margin": 0.02, "seeds": 2, "epochs": 6}
        for i, (short, long) in enumerate([(0.5, 0.6), (0.55, 0.8), (0.6, 0.7)])
    ]
    run.result["confirmed"] = [*rows, {**rows[0], "number": 3, "epochs": 3}]  # the last was not trained longer
    found = confirmed_of(run)
    assert found and found.numbers == [0, 1, 2] and found.tau == pytest.approx(1 / 3)  # two of three pairs
    (bars,) = [each for each in proxy_figure(run).axes[0].containers if isinstance(each, ErrorbarContainer)]
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [(50, 60), (55, 80), (60, 70)])
    assert trusted_of(run) == (None, "")


def test_a_history_is_drawn_against_time(whole: Path) -> None:
    run = Run.load(whole)
    history, (top, middle, _) = history_of(run), history_figure(run).axes
    last = run.trials.ended.max()
    scale = 1.0 if last <= 600 else 60.0
    for axes, shares in ((top, history.best), (middle, history.hypervolume)):
        (line,) = [each for each in axes.lines if each.get_drawstyle() == "steps-post"]
        np.testing.assert_allclose(line.get_xdata(), np.append(history.seconds, last) / scale)
        np.testing.assert_allclose(line.get_ydata(), 100 * np.append(shares, shares[-1]))


def test_importances_are_bars(whole: Path) -> None:
    figure = importances_figure(Run.load(whole))
    shares = [100 * share for share in importances_of(whole).shares.values()]
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == pytest.approx(shares[: len(widths)]) and len(widths) > 3


def test_trust_is_drawn_beside_the_confirmed_and_said_to_be_damaged(whole: Path, tmp_path: Path) -> None:
    run = Run.load(whole)
    numbers = run.trials[run.trials.status == "complete"].number.tolist()[:4]
    estimate = {"value": 0.81, "low": 0.7, "high": 0.9}
    trust = dict.fromkeys(("accuracy", "more_macs", "more_params"), estimate)
    accuracies = {str(number): {"7": 0.8, "8": 0.82} for number in numbers}
    file = whole / "trust.json"
    try:
        file.write_text(json.dumps({"epochs": 15, "accuracies": accuracies, "trust": trust}))
        shown = " ".join(texts(proxy_figure(run)))
        assert "trust: 15 epochs, 2 seeds" in shown and "0.81 (0.70 to 0.90)" in shown and "confirmed" in shown
        file.write_text("{")
        with pytest.raises(NotDrawn, match="trust.json is damaged"):
            proxy_figure(run)
    finally:
        file.unlink()


def test_a_single_confirmed_design_has_no_order() -> None:
    confirmed = {"number": 0, "accuracy_in_search": 0.5, "accuracy": 0.6, "margin": 0.02, "seeds": 1, "epochs": 6}
    run = run_of([{"accuracy": 0.5}], result={"confirmed": [confirmed]}, epochs=3)
    shown = " ".join(texts(proxy_figure(run)))
    assert "confirmed: one design, which has no order" in shown and "nan" not in shown


def trials_of(count: int) -> list[optuna.trial.FrozenTrial]:
    """Accuracy depends on x alone; z is there where x is large."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))

    def try_one(trial: optuna.Trial) -> float:
        x, _ = trial.suggest_int("x", 0, 9), trial.suggest_categorical("y", ["a", "b"])
        if x > 4:
            trial.suggest_int("z", 0, 3)
        return x / 10

    study.optimize(try_one, n_trials=count)
    return study.trials


def test_importances_find_what_decides() -> None:
    found = importances([trials_of(60), trials_of(4)])
    assert next(iter(found.shares)) == "x" and found.shares["x"] > 0.6
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.rung, found.num_trials) == (0, 60)
    assert importances([trials_of(60), trials_of(20)]).rung == 1
    with pytest.raises(NotDrawn, match="9 trials were trained"):
        importances([trials_of(9)])
    with pytest.raises(NotDrawn, match="0 trials"):
        importances([])


def test_choices_that_decide_alike_are_in_the_order_of_their_names() -> None:
    names = [f"twin {i}" for i in range(8)]
    coin = optuna.distributions.CategoricalDistribution(["a", "b"])
    ended = [
        optuna.create_trial(
            value=i % 2, params=dict.fromkeys(names, "ab"[i % 2]), distributions=dict.fromkeys(names, coin)
        )
        for i in range(20)
    ]
    assert [*importances([ended]).shares] == names


def test_importances_read_the_latest_trials_as_optuna_does(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with read_only(whole) as storage:
        study = optuna.load_study(study_name="rung 0", storage=storage)
        ended = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        found = _ended(storage, study._study_id)
        assert len(found) == len(ended) > 20
        for one, other in zip(found, ended, strict=True):
            assert one.value == other.values[0]
            assert (one.params, one.distributions) == (other.params, other.distributions)
        monkeypatch.setattr("hybridnas.study.importance.MOST", 7)
        assert [each.value for each in _ended(storage, study._study_id)] == [each.values[0] for each in ended[-7:]]


def test_parts_of_a_published_design() -> None:
    parts = parts_of(zoo.load("coatnet_0_rw_224"))
    assert [part.resolution for part in parts] == [112, 56, 28, 14, 7, None]
    assert [part.family for part in parts[1:5]] == ["mbconv", "mbconv", "global", "global"]
    assert parts[1].joint == "mbconv /2" and "expand 4" in parts[1].details


@pytest.mark.parametrize("name", ["coatnet_0_rw_224", "efficientformer_l1", "levit_128", "resnet50", "mobilevit_s"])
def test_a_drawing_says_all_stages_inside_the_picture(name: str) -> None:
    architecture = zoo.load(name)
    ms = [1.0] * (len(architecture.stages) + 2)
    figure = draw_architecture(architecture, ms)
    figure.draw_without_rendering()
    found = [text for text in figure.findobj(Text) if text.get_text()]
    shown = [text.get_text() for text in found]
    for stage in architecture.stages:
        if stage.depth:
            assert f"{stage.depth} × {stage.block}" in shown and f"{stage.width} ch" in shown
    assert {f"{side} x {side}" for side in architecture.resolutions} <= {*shown}
    faces = {to_hex(patch.get_facecolor()).upper() for patch in figure.findobj(FancyBboxPatch)}
    assert {FAMILY_COLOURS[stage.block] for stage in architecture.stages if stage.depth} <= faces
    assert isinstance(figure, Drawn)  # a notebook shows it
    assert shown.count(f"{100 / len(ms):.0f} %") == len(ms)
    box = figure.bbox
    for text in found:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1, text
    with pytest.raises(ValueError, match="of the stem, all stages and the head"):
        draw_architecture(architecture, [1.0])


def test_milliseconds_of_stages_are_read_or_done_without() -> None:
    architecture = replace(zoo.load("levit_128"))
    row = pd.Series({"architecture": architecture.to_json(), "stage_ms": "0.5 1 2e0 1.5 0.25"})
    assert stage_ms_of(row) == [0.5, 1, 2, 1.5, 0.25]
    for text in ("", "1 2", "1 2 3 4 five", None, float("nan")):
        row["stage_ms"] = text
        assert stage_ms_of(row) is None
    assert stage_ms_of(row.drop("stage_ms")) is None


def test_letters_stand_out_from_every_family_s_colour() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in FAMILY_COLOURS.values():
        letters = {"white": 1.0}.get(text_on(colour)) or luminance(text_on(colour))
        low, high = sorted([letters, luminance(colour)])
        assert (high + 0.05) / (low + 0.05) > 4.5, colour


def test_a_long_name_loses_its_middle() -> None:
    assert said("a\n b" + "x" * 50 + "end", 11) == "a bxx…xxend"


def test_a_figure_that_fails_keeps_no_other_from_being_drawn(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Run) -> None:
        raise ZeroDivisionError("none left")

    some = {"pareto": FIGURES["pareto"], "history": broken, "operators": FIGURES["operators"]}
    monkeypatch.setattr("hybridnas.report.figures.FIGURES", some)
    with pytest.raises(ZeroDivisionError):
        draw_all(Run.load(whole), tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"pareto", "operators"}


def test_chance_is_of_as_many_classes_as_the_result_says(whole: Path) -> None:
    assert history_of(Run.load(whole)).floor == 1 / NUM_CLASSES
