"""`trust`: a run's networks trained longer, and compared."""

import json
import re
import shutil
from itertools import pairwise

import pandas as pd
import pytest

from hybridnas import Run, SearchConfig, run_search
from hybridnas.cli import exit_code
from hybridnas.errors import TrainingFailed
from hybridnas.locks import owned
from hybridnas.proxy.training import Trainer
from hybridnas.trust import app
from hybridnas.trusting import attention_share, spread_sample


@pytest.fixture(scope="module")
def searched(space_file, npz_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "searched"
    given = {"epochs": 1, "trials": 7, "threads": 1, "baselines": "none"}
    run_search(SearchConfig(space=str(space_file), data=str(npz_file), out=folder, **given))
    return folder


@pytest.fixture
def folder(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "run")


@pytest.fixture
def trust(folder, capsys):
    def call(*flags):
        code = exit_code(app, [str(folder), *flags])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


FLAGS = ("--networks", "4", "--epochs", "2")


def stored(folder):
    return json.loads((folder / "trust.json").read_text())


def test_networks_are_trained_longer_and_compared(trust, folder):
    code, out, _ = trust(*FLAGS)
    assert code == 0
    assert re.search(r"4 networks, 2 seeds, 2 epochs each: 8 trainings to go, about \d+ min", out)
    found = stored(folder)
    assert found["epochs"] == 2 and len(found["accuracies"]) == 4
    assert {len(seeds) for seeds in found["accuracies"].values()} == {2}
    assert found["trust"]["num_networks"] == 4
    assert out.rstrip().endswith(found["verdict"]) and "`hybridnas report " in out
    for words in ("more multiply-adds wins", "more parameters wins", "ceiling", "Kendall's tau"):
        assert words in out


def test_trainings_of_another_length_are_kept_beside(trust, folder, monkeypatch):
    assert trust(*FLAGS)[0] == 0
    two = stored(folder)["accuracies"]
    assert trust("--networks", "4", "--epochs", "3")[0] == 0
    assert stored(folder)["epochs"] == 3
    monkeypatch.setattr(Trainer, "train", lambda *given, **named: pytest.fail("trained again"))
    assert trust(*FLAGS)[0] == 0
    assert stored(folder)["epochs"] == 2 and stored(folder)["accuracies"] == two
    assert json.loads((folder / "trust-3-epochs.json").read_text())["epochs"] == 3


def test_what_was_trained_is_not_trained_again(trust, folder, monkeypatch):
    train, calls = Trainer.train, []

    def stopped(self, architecture, recipe, *, seed):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((architecture.key, seed))
        return train(self, architecture, recipe, seed=seed)

    monkeypatch.setattr(Trainer, "train", stopped)
    assert trust(*FLAGS)[0] == 130
    assert sum(map(len, stored(folder)["accuracies"].values())) == 3
    again = []
    monkeypatch.setattr(
        Trainer,
        "train",
        lambda self, architecture, recipe, *, seed: (
            again.append((architecture.key, seed)) or train(self, architecture, recipe, seed=seed)
        ),
    )
    code, out, _ = trust(*FLAGS)
    assert code == 0 and "5 trainings to go" in out
    assert len({*calls, *again}) == 8
    monkeypatch.setattr(Trainer, "train", None)
    code, whole, _ = trust(*FLAGS)
    assert code == 0 and "to go" not in whole and whole.splitlines()[-1] == out.splitlines()[-1]


def test_a_network_that_cannot_be_trained_is_left_out(trust, folder, monkeypatch):
    train, first = Trainer.train, []

    def fails(self, architecture, recipe, *, seed):
        first.append(architecture.key)
        if architecture.key == first[0]:
            raise TrainingFailed("out of memory")
        return train(self, architecture, recipe, seed=seed)

    monkeypatch.setattr(Trainer, "train", fails)
    code, out, _ = trust(*FLAGS)
    assert code == 0 and "is left out: out of memory" in out
    assert stored(folder)["trust"]["num_networks"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--networks", "2"), "--networks must be at least 3, got 2"),
        (("--seeds", "1"), "--seeds must be at least 2, got 1"),
        (("--epochs", "1"), "--epochs must be over the 1 of the search, got 1"),
        (("--epochs", "0"), "--epochs must be over the 1 of the search, got 0"),
    ],
)
def test_wrong_numbers(trust, flags, message):
    code, _, err = trust(*flags)
    assert code == 2 and message in err


def test_a_damaged_file_is_named(trust, folder):
    (folder / "trust.json").write_text('{"epochs": 2, "accuracies": []}')
    code, _, err = trust(*FLAGS)
    assert code == 2 and "trust.json is damaged" in err and "remove it" in err


def test_a_folder_that_another_process_is_at_is_refused(trust, folder):
    with owned(folder):
        code, out, err = trust()
    assert code == 2 and out == "" and "is in use: another process is searching or training there" in err


def test_other_data_are_refused(trust, folder):
    text = (folder / "environment.json").read_text()
    (folder / "environment.json").write_text(text.replace(json.loads(text)["data_fingerprint"], "0" * 16))
    code, _, err = trust(*FLAGS)
    assert code == 2 and "is not what it was when" in err


def test_no_run(tmp_path, capsys):
    assert exit_code(app, [str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "num"), [(30, 12), (30, 3), (13, 12), (12, 12), (5, 12), (40, 10)])
def test_the_sample_is_groups_of_neighbours_in_latency(count, num):
    trials = pd.DataFrame({"number": range(count), "key": map(str, range(count)), "status": "complete"})
    trials["worst_latency"] = trials.number / 10
    found = spread_sample(trials.sample(frac=1, random_state=0), num).number.tolist()
    assert len(set(found)) == len(found) == min(num, count)
    neighbours = sum(later - earlier == 1 for earlier, later in pairwise(found))
    assert neighbours >= len(found) - max(1, num // 4)
    if num >= 8:
        assert found[0] == 0 and found[-1] == count - 1


def test_share_of_attention(searched):
    run = Run.load(searched)
    for number in run.trials.number:
        design = run.architecture(int(number))
        share = attention_share(design)
        assert 0 <= share <= 1 and (share == 1) == (set(design.layout) == {"T"})


def test_a_run_with_an_image_size_of_its_own(space_file, npz_file, tmp_path, capsys):
    """The space of the run folder still says another size."""
    given = {"epochs": 1, "trials": 3, "threads": 1, "baselines": "none"}
    run_search(SearchConfig(space=str(space_file), data=str(npz_file), image_size=8, out=tmp_path / "run", **given))
    assert exit_code(app, [str(tmp_path / "run"), "--networks", "3", "--epochs", "2"]) == 0
    assert "3 networks" in capsys.readouterr().out
