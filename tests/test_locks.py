"""Who times has the device alone, across processes; who trains shares it, and lets a waiting timer go first."""

import os
import stat
import subprocess
import sys
import time

import pytest

from hybridnas.errors import RunError
from hybridnas.locks import DeviceLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")

CHILD = """
import pathlib, sys, time
from hybridnas.locks import DeviceLock
kind, folder, seconds = sys.argv[1:4]
with getattr(DeviceLock("cpu", pathlib.Path(folder)), kind)():
    print("held", flush=True)
    time.sleep(float(seconds))
"""


def child(kind, folder, seconds):
    """A process that holds the lock for a while; it has it when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def waited(kind, folder):
    start = time.monotonic()
    with getattr(DeviceLock("cpu", folder), kind)():
        return time.monotonic() - start


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [("shared", "shared", False), ("shared", "alone", True), ("alone", "shared", True), ("alone", "alone", True)],
)
def test_who_waits_for_whom(first, second, waits, tmp_path):
    with child(first, tmp_path, 3 if waits else 60) as process:
        took = waited(second, tmp_path)
        if waits:
            assert took > 1  # of the three seconds, less a slow machine's
        else:
            assert process.poll() is None  # got it while the other holds it
            process.kill()


def test_a_waiting_timer_goes_before_further_training(tmp_path):
    """A trainer holds the device, a timer waits, another trainer comes: it must not get in before the timer."""
    with child("shared", tmp_path, 4):
        program = [sys.executable, "-c", CHILD, "alone", str(tmp_path), "2"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as timer:
            time.sleep(1.5)  # until it waits
            with DeviceLock("cpu", tmp_path).shared():
                assert timer.poll() is not None or timer.stdout.readline() == "held\n"
                timer.wait(30)


def test_a_process_that_dies_leaves_no_lock(tmp_path):
    with child("alone", tmp_path, 60) as process:
        process.kill()
    assert waited("alone", tmp_path) < 30


def test_a_lock_that_lives_until_the_end_of_a_program_says_nothing(tmp_path):
    code = "import pathlib, sys, hybridnas.locks as l; lock = l.DeviceLock('cpu', pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_folder_of_locks_that_is_another_users(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RunError, match="belongs to another user: remove it, or name another folder by TMPDIR"):
        DeviceLock("cpu", tmp_path)


def test_locks_are_their_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        lock = DeviceLock("cpu", tmp_path / "locks")
        with lock.alone():
            modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "locks").iterdir()}
    finally:
        os.umask(before)
    assert modes == {".lock": 0o600}
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o700


def test_devices_are_locked_apart(tmp_path):
    with child("alone", tmp_path, 60) as process:
        with DeviceLock("cuda:0", tmp_path).alone():
            assert process.poll() is None
        process.kill()


def test_the_lock_is_released_after_an_error(tmp_path):
    lock = DeviceLock("cpu", tmp_path)
    for kind in ("shared", "alone"):
        with pytest.raises(ValueError, match="in the middle"), getattr(lock, kind)():
            raise ValueError("in the middle")
    assert waited("alone", tmp_path) < 30


def test_training_waits_while_another_process_times(tmp_path, monkeypatch, npz_file):
    import torch

    from hybridnas.architecture import Architecture, Stage, Stem, Transition
    from hybridnas.data.loading import Loading
    from hybridnas.data.sources import open_source
    from hybridnas.proxy import training

    monkeypatch.setattr(training, "DeviceLock", lambda device: DeviceLock(device, tmp_path))
    trainer = training.Trainer(
        open_source(str(npz_file)).load(Loading(16, max_train=100)), torch.device("cpu"), threads=1
    )
    small = Architecture(16, Stem("patch4", 8), (Stage(Transition("none", 1), "repmixer", 1, 8),))
    steps = []
    with child("alone", tmp_path, 3) as process:
        trainer.train(small, training.Recipe(1, batch_size=50), seed=0, on_step=lambda _: steps.append(process.poll()))
    assert steps and None not in steps  # no step ended before the timer had


def test_timing_waits_while_another_process_trains(tmp_path, monkeypatch):
    from torch import nn

    from hybridnas.cost import targets
    from hybridnas.cost.latency import Timer

    monkeypatch.setattr(targets, "DeviceLock", lambda device: DeviceLock(device, tmp_path))
    timer = Timer("cpu", threads=1, reference="small")
    with child("shared", tmp_path, 3):
        begun = time.monotonic()
        timer.measure(nn.Conv2d(3, 4, 3), 16, seconds=0.1)
        assert time.monotonic() - begun > 1.5  # of the three seconds, less a slow machine's
