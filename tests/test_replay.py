"""Replayed searches: on made-up records whose best networks are known, and on those that come with the package."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybridnas.cli import exit_code
from hybridnas.config import SAMPLERS
from hybridnas.errors import ConfigError
from hybridnas.replay import app
from hybridnas.replaying import compare_samplers, mean_margin
from hybridnas.report.curves import Curve, curves_figure
from hybridnas.space import SearchSpace
from hybridnas.tabular import Coverage, Recorded, recorded_folder, replay

FAMILIES = ("mbconv", "convnext", "window", "global")
#: What each family adds to the percent right, and the milliseconds that it takes, early and late.
GAINS = {"mbconv": (6, 1), "convnext": (4, 2), "window": (3, 4), "global": (1, 7)}
MILLISECONDS = {"mbconv": 1.0, "convnext": 1.5, "window": 2.0, "global": 3.0}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    shutil.copy(recorded_folder() / "closed.yaml", folder)
    space = SearchSpace.load(folder / "closed.yaml")
    generator = np.random.default_rng(0)
    networks, trainings = [], []
    for families in itertools.product(FAMILIES, repeat=4):
        design = space.design(families)
        assert design is not None
        name = "-".join(families)
        ms = sum(MILLISECONDS[family] for family in families)
        late = 60 + sum(GAINS[family][stage > 1] for stage, family in enumerate(families))
        networks.append([design.key, name, 1000, 10, ms, ms / 2])
        for seed in (0, 1):
            reached = [late * share / 100 + generator.normal(0, 0.002) for share in (0.4, 0.6, 0.8, 1.0)]
            trainings.append(["synthetic", name, seed, *reached, 20.0])
    columns = ["key", "families", "macs", "params", "torch_ms", "onnxruntime_ms"]
    pd.DataFrame(networks, columns=columns).to_csv(folder / "networks.csv", index=False)
    epochs = [f"epoch_{n}" for n in range(1, 5)]
    pd.DataFrame(trainings, columns=["data", "families", "seed", *epochs, "seconds"]).to_csv(
        folder / "trainings.csv", index=False
    )
    return folder


def test_the_records_are_read(records: Path) -> None:
    recorded = Recorded.load(records)
    assert len(recorded.networks) == 256 == recorded.space.size and recorded.epochs == 4
    assert (recorded.networks.seeds == 2).all()
    best = recorded.true_front(None).iloc[-1]
    assert best.families == "mbconv-mbconv-global-global"
    assert best.accuracy == pytest.approx(0.86, abs=0.005)
    first, seconds = recorded.trained(best.name, 0)
    assert len(first) == 4 and seconds == 20 and not np.array_equal(first, recorded.trained(best.name, 1)[0])
    assert np.array_equal(first, recorded.trained(best.name, 2)[0])  # two seeds are on record
    assert Recorded.load(records, runtime="onnxruntime").networks.latency_ms.max() == 6
    assert (recorded.true_front(5.0).latency_ms <= 5).all()


def test_all_networks_cover_what_the_true_front_covers(records: Path) -> None:
    recorded = Recorded.load(records)
    covered = Coverage(recorded, 7.0)
    assert covered(list(recorded.true_front(7.0).index)) == pytest.approx(1.0)
    assert covered([]) == 0
    slow = recorded.networks.index[recorded.networks.latency_ms > 7.0]
    assert covered(list(slow)) == 0
    recorded.networks["accuracy"] = 0.5
    with pytest.raises(ConfigError, match=r"No network on record within 7 ms is better than the least accurate\."):
        Coverage(recorded, 7.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_spends_what_it_may_and_finds_more_and_more(records: Path, sampler: str) -> None:
    recorded = Recorded.load(records)
    trainings = 6 if sampler == "gp" else 14  # which takes a second a proposal
    found = replay(recorded, sampler, seed=1, trainings=trainings, budget_ms=8.0)
    assert trainings <= found.trainings[-1] < trainings + 1 and (np.diff(found.trainings) > 0).all()
    assert (np.diff(found.share) >= 0).all() and 0 < found.share[-1] <= 1
    assert found.over_budget == 0 and found.ask_ms > 0
    assert found.share_at(0.1) == 0 and found.share_at(99) == found.share[-1]
    again = replay(recorded, sampler, seed=1, trainings=trainings, budget_ms=8.0)
    assert np.array_equal(again.share, found.share)


def test_what_an_ablation_takes_away(records: Path) -> None:
    recorded = Recorded.load(records)
    options = {"seed": 0, "trainings": 20, "budget_ms": 6.0}
    assert replay(recorded, "random", gate=False, **options).over_budget > 0
    whole = replay(recorded, "random", rungs=(4,), **options)
    assert np.array_equal(whole.trainings, np.arange(1, len(whole.trainings) + 1))
    assert 0.25 in replay(recorded, "random", **options).trainings
    seeded, unseeded = (replay(recorded, "random", seeding=seeding, **options) for seeding in (True, False))
    assert not np.array_equal(seeded.share, unseeded.share)


def test_the_records_of_the_package_are_whole() -> None:
    recorded = Recorded.load()
    space = recorded.space
    keys = {design.key for each in itertools.product(FAMILIES, repeat=4) if (design := space.design(each))}
    assert {*recorded.networks.index} == keys and len(keys) == 256 == space.size
    assert (recorded.networks.seeds == 3).sum() == 64 and recorded.epochs == 4
    assert recorded.networks.macs.max() < 6e6
    assert sum(path.stat().st_size for path in recorded_folder().glob("*.csv")) < 5e6
    replayed = replay(recorded, "random", seed=0, trainings=6, budget_ms=3.4)
    assert 0 < replayed.share[-1] < 1 and replayed.over_budget == 0


def test_a_search_needs_all_architectures(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["--data", "fashion-mnist"]) == 2
    assert "--data fashion-mnist has 80 of 256 architectures on record: a search needs all." in capsys.readouterr().err


def test_the_sampler_that_knows_costs_finds_more_than_chance(records: Path) -> None:
    rows = compare_samplers(["random", "cost-aware"], seeds=2, trainings=10, folder=records).set_index("sampler")
    assert rows.share_10["cost-aware"] > rows.share_10["random"]


def test_an_interval_by_students_t() -> None:
    mean, margin = mean_margin([1.0, 2.0, 3.0])
    assert mean == 2 and margin == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


def test_a_short_comparison_says_how_far_it_came(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--records", str(records), "--sampler", "random", "--out", str(tmp_path / "curves.png")]
    assert exit_code(app, [*flags, "--seeds", "1", "--trainings", "12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, row = (next(line.split() for line in lines if word in line) for word in ("proposal", " random "))
    assert ["10", "12"] == [word for word in head if word.isdecimal()]
    assert "nan" not in row and len([word for word in row if word.replace(".", "").isdecimal()]) == 4


def test_the_command_prints_a_table_and_draws(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--records", str(records), "--seeds", "2", "--trainings", "20", "--out", str(tmp_path / "curves.svg")]
    assert exit_code(app, ["--sampler", "random", "--sampler", "tpe", *flags]) == 0
    out = capsys.readouterr().out
    assert "256 architectures" in out and "over budget" in out
    assert f"{len(Recorded.load(records).true_front(None))} on the true front" in out
    assert [line.split()[1] for line in out.splitlines() if "+-" in line] in (["random", "tpe"], ["tpe", "random"])
    assert "hypervolume" in (tmp_path / "curves.svg").read_text()


def test_curves_have_their_bands() -> None:
    x, margin = np.array([1, 2, 3]), np.array([0.5, 0.5, 1])
    curves = [Curve(name, x, np.array([1.0, 2.0, last]), margin) for last, name in enumerate("ab")]
    (axes,) = curves_figure(curves, x="x", y="y", all_of_it=3.0).axes
    assert [[*line.get_ydata()] for line in axes.lines] == [[1, 2, 0], [1, 2, 1], [3, 3]]
    assert axes.get_legend_handles_labels()[1] == ["a", "b"]
    corners = [band.get_paths()[0].vertices[:, 1] for band in axes.collections]
    assert [(each.min(), each.max()) for each in corners] == [(-1, 2.5), (0, 2.5)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sampler", "magic"], "--sampler magic is unknown; cost-aware, tpe, gp"),
        (["--data", "imagenet"], "--data imagenet is not on record; synthetic"),
        (["--runtime", "abacus"], "--runtime abacus was not timed; torch and onnxruntime were."),
        (["--budget-ms", "0.5"], "no network on record is so fast; the fastest takes 4 ms"),
        (["--budget-ms", "4.1"], "no network on record is so fast; the fastest takes 4 ms, and 3% are kept in hand."),
        (["--budget-ms", "0"], "greater than or equal to 0.001"),
        (["--rungs", "1,9"], "--rungs must rise from 1 up to the 4 epochs on record."),
        (["--rungs", "0,4"], "--rungs must rise from 1 up to the 4 epochs on record."),
        (["--rungs", "few"], "--rungs must be numbers of epochs such as 1,3,9, got 'few'."),
        (["--rungs", "2", "--no-rungs"], "--no-rungs and --rungs exclude each other"),
        (["--seeds", "0"], "greater than or equal to 1"),
        (["--out", "curves.xyz"], "--out curves.xyz must end in .png or .svg."),
    ],
)
def test_mistakes_are_said(records: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["--records", str(records), *flags]) == 2
    assert said in capsys.readouterr().err


def test_damaged_records_are_said(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["--records", str(tmp_path)]) == 2
    shutil.copytree(records, tmp_path / "torn")
    (tmp_path / "torn" / "trainings.csv").write_text("data,families\n")
    assert exit_code(app, ["--records", str(tmp_path / "torn")]) == 2
    assert "holds no records that can be read" in capsys.readouterr().err
    for name, old, new, said in (
        ("trainings.csv", ",20.0\n", ",\n", "holds no records that can be read: a figure is missing."),
        ("networks.csv", "\n", "\n0", " with the key "),
    ):
        folder = shutil.copytree(records, tmp_path / name)
        (folder / name).write_text((folder / name).read_text().replace(old, new).rstrip("0"))
        flags = ["--sampler", "random", "--seeds", "1", "--trainings", "2"]
        assert exit_code(app, ["--records", str(folder), *flags]) == 2
        assert said in capsys.readouterr().err
