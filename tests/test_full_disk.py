"""A disk that fills up: one sentence, exit code 2, nothing that finished is lost, and --resume goes on.

The disk is a small tmpfs, for which the tests need to be root.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from processes import SECONDS, Warm, wait_for_rows
from safetensors.torch import save_file

from hybridnas import SearchSpace
from hybridnas.errors import DiskFullError
from hybridnas.files import append, write_atomic

SIZE = 8 * 1024**2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all room that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


@pytest.mark.parametrize(
    "write",
    [
        "x" * 2 * SIZE,
        b"x" * 2 * SIZE,
        partial(torch.save, {"a": torch.zeros(SIZE)}),
        lambda path: save_file({"a": torch.zeros(SIZE)}, path),
    ],
    ids=["text", "bytes", "torch", "safetensors"],
)
def test_the_old_file_stays_and_nothing_else(disk, write):
    (disk / "a").write_text("old")
    with pytest.raises(DiskFullError, match="No room is left on the disk of"):
        write_atomic(disk / "a", write)
    assert (disk / "a").read_text() == "old"
    assert [path.name for path in disk.iterdir()] == ["a"]


def test_what_there_is_no_room_to_add_is_not_half_added(disk):
    (disk / "a").write_text("old")
    append(disk / "a", " and new")
    with pytest.raises(DiskFullError, match="No room is left on the disk of"):
        append(disk / "a", "x" * 2 * SIZE)
    assert (disk / "a").read_text() == "old and new"


def test_a_search_stops_and_goes_on_when_there_is_room(disk, space_file, npz_file):
    folder = disk / "run"
    given = ("--space", space_file, "--data", npz_file, "--epochs", 1, "--trials", 6, "--threads", 1)
    flags = (*given, "--baselines", "none", "--out", folder)
    process = Warm("search", *flags)
    wait_for_rows(folder / "trials.csv", 2)
    ballast = fill(disk)
    _, err = process.communicate(timeout=SECONDS)
    said = err.strip().splitlines()[-1]
    assert process.returncode == 2 and said.startswith("hybridnas: No room is left on"), err
    assert "Traceback" not in err
    before = pd.read_csv(folder / "trials.csv")
    assert len(before) >= 2

    ballast.unlink()
    process = Warm("search", *flags, "--resume")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    after = pd.read_csv(folder / "trials.csv")
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before, check_dtype=False)
    assert (after.status == "complete").sum() == 6 and not after.key.duplicated().any()
    assert not list(folder.glob("**/.*"))


def test_a_full_training_stops_and_goes_on_when_there_is_room(disk, space_file, npz_file, tmp_path):
    design = tmp_path / "design.json"
    network = SearchSpace.load(space_file).design(("mbconv", "global"), size=1)
    assert network is not None
    design.write_text(network.to_json())
    folder = disk / "training"
    process = Warm("train", design, "--data", npz_file, "--epochs", 40, "--out", folder, "--no-flip")
    wait_for_rows(folder / "metrics.csv", 2)
    ballast = fill(disk)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2 and "Traceback" not in err, err
    assert err.strip().splitlines()[-1].startswith("hybridnas: No room is left on")
    before = pd.read_csv(folder / "metrics.csv")

    ballast.unlink()
    process = Warm("train", "--resume", "--out", folder)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    after = pd.read_csv(folder / "metrics.csv")
    assert len(after) == 40 and after.epoch.tolist()[: len(before)] == before.epoch.tolist()
