"""A real Ray cluster of two nodes on this machine. Its programs are started and watched in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from murders import make_timer
from processes import SECONDS, Warm, wait_for_rows

from hybridnas import Run, SearchConfig, run_search
from hybridnas.cli import exit_code
from hybridnas.errors import ConfigError, DataError, TrainingFailed, WorkerError
from hybridnas.proxy.evaluation import Outcome, Task
from hybridnas.proxy.training import Recipe
from hybridnas.search import app
from hybridnas.study import on_ray
from hybridnas.study.on_ray import OnRay, Remote, room
from hybridnas.zoo.of_timm import TimmModel

pytest.importorskip("ray")

CLUSTER = """
import sys, threading, time
from pathlib import Path
from murders import make_timer
from processes import be_brisk
from ray.cluster_utils import Cluster
import hybridnas.timing, hybridnas.working
from hybridnas import SearchConfig, run_search
from hybridnas.study.on_ray import OnRay

space, data, folder = sys.argv[1:]
be_brisk()
hybridnas.timing.Timer = make_timer
QUICK = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}  # to see that a node is lost
head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
cluster = Cluster(initialize_head=True, head_node_args=head)
lost, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
config = dict(epochs=3, rungs=(1,), threads=1, executor="ray", ray_address=cluster.address, workers=2, baselines="none")

make, again = hybridnas.working._set_up, OnRay._lost

def set_up(*given):
    # Says where it is at work, until it is done.
    import ray
    at_work = Path(folder) / f"at-{ray.get_runtime_context().get_node_id()}"
    evaluate = make(*given)
    def slowly(task, tell):
        at_work.touch()
        time.sleep(0.5)
        result = evaluate(task, tell)
        at_work.unlink()
        return result
    return slowly

def tell(self, trainer, order, reason):
    print("lost at work" if order else "lost idle", flush=True)
    return again(self, trainer, order, reason)

hybridnas.working._set_up, OnRay._lost = set_up, tell

def lose():
    table, at_work = Path(folder) / "trials.csv", Path(folder) / f"at-{lost.node_id}"
    while not (table.exists() and len(table.read_text().splitlines()) > 1 and at_work.exists()):
        time.sleep(0.02)
    cluster.remove_node(lost, allow_graceful=False)

threading.Thread(target=lose, daemon=True).start()
run_search(SearchConfig(space=space, data=data, trials=6, out=folder, **config))
run_search(SearchConfig(out=folder, trials=7, workers=1), resume=True)  # there is room for one only
cluster.shutdown()
"""


def test_a_search_on_a_cluster_that_loses_a_node(tmp_path, space_file, npz_file):
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, space_file, npz_file, tmp_path / "run"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": tests, "RAY_TMPDIR": "/tmp/ray-tests"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost at work" in done.stdout
    trials = Run.load(tmp_path / "run").trials
    assert len(trials) == 7 == trials.key.nunique() and (trials.status.isin(["complete", "pruned"])).all()
    assert (trials.status == "complete").sum() >= 3
    assert pd.read_csv(tmp_path / "run" / "trials.csv").accuracy.between(0, 1).all()
    Run.load(tmp_path / "run").best_model()


def test_ray_that_cannot_be_used_is_said_in_a_sentence(tmp_path, monkeypatch, space_file, npz_file):
    config = SearchConfig(space=str(space_file), data=str(npz_file), threads=1, executor="ray", ray_address="auto")
    with pytest.raises(ConfigError, match="--ray-address is for --executor ray, got local"):
        run_search(config.model_copy(update={"out": tmp_path / "none", "executor": "local"}))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--executor ray needs Ray: pip install 'hybridnas\[ray\]'"):
        run_search(config.model_copy(update={"out": tmp_path / "none"}))
    assert not (tmp_path / "none").exists()
    monkeypatch.undo()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(WorkerError, match="--ray-address auto cannot be reached"):
        run_search(config.model_copy(update={"out": tmp_path / "run"}))


def test_data_that_a_machine_has_not_are_said(monkeypatch):
    def lacks_data(cpus, place):
        raise DataError("--data /shared/birds does not exist.")

    monkeypatch.setenv("RAY_TMPDIR", "/tmp/ray-tests")
    with pytest.raises(WorkerError, match=r"could not begin: .*--data /shared/birds does not exist\.$"):
        OnRay(1, lacks_data, address=None, cpus=1, gpus=0)


def test_weights_to_begin_with_travel(tmp_path):
    seen = []

    def make(place):
        return lambda task, tell: seen.append(task.architecture.weights.read_bytes()) or TrainingFailed("seen")

    design = TimmModel("resnet18", 32, Path("/driver/resnet18.pth"))
    task = Task(0, design, Recipe(1), 0, 1, None, tmp_path / "weights.safetensors")
    result, files = Remote(make, 0).do(task, None, b"given")
    assert seen == [b"given"] and isinstance(result, TrainingFailed) and files == {}


def task(until: int, checkpoint: Path, weights: Path) -> Task:
    return Task(0, TimmModel("resnet18", 32), Recipe(3), 0, until, checkpoint, weights, 60.0)


def test_a_stopped_training_travels_there_and_back(tmp_path):
    """The files of the task are the driver's: what does it sees others, and leaves what it wrote there."""
    seen = []

    def make(place):
        def evaluate(here, tell):
            seen.append(here.checkpoint.read_bytes() if here.checkpoint.exists() else None)
            here.checkpoint.write_bytes(b"stopped later")
            here.weights.write_bytes(b"a network")
            return Outcome((0.5,), 1.0)

        return evaluate

    asked = task(1, Path("/driver/stopped-0.pt"), Path("/driver/trial-0.safetensors"))
    remote = Remote(make, 0)
    assert remote.do(asked, b"stopped", None) == (Outcome((0.5,), 1.0), {"checkpoint": b"stopped later"})
    assert remote.do(asked, None, None)[1] == {"checkpoint": b"stopped later"}
    ended = task(3, asked.checkpoint, asked.weights)
    assert remote.do(ended, b"stopped", None)[1] == {"weights": b"a network"}
    assert seen == [b"stopped", None, b"stopped"]


def test_an_actor_takes_a_stopped_training_and_gives_it_back(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/ray-tests")
    answer = signal.getsignal(signal.SIGTERM)

    def make(cpus, place):
        def evaluate(here, tell):
            here.checkpoint.write_bytes(here.checkpoint.read_bytes() + b" and gone on with")
            return Outcome((float(cpus), float(place)), 1.0)

        return evaluate

    (tmp_path / "stopped-0.pt").write_bytes(b"stopped")
    places = OnRay(1, make, address=None, cpus=1, gpus=0)
    try:
        assert signal.getsignal(signal.SIGTERM) is answer  # which ray.init replaces
        asked = task(1, tmp_path / "stopped-0.pt", tmp_path / "trial-0.safetensors")
        places.submit(asked)
        assert places.wait(lambda share: None) == (asked, Outcome((1.0, 0.0), 1.0))
    finally:
        places.close()
    assert (tmp_path / "stopped-0.pt").read_bytes() == b"stopped and gone on with"
    assert [path.name for path in tmp_path.iterdir()] == ["stopped-0.pt"]


def test_a_cluster_that_lost_its_trainers_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/ray-tests")
    begun = tmp_path / "begun"

    def make(cpus, place):
        if begun.exists():  # stands for a machine that does not come
            time.sleep(SECONDS)
        begun.touch()
        return lambda here, tell: os._exit(1)

    places = OnRay(1, make, address=None, cpus=1, gpus=0)
    monkeypatch.setattr(on_ray, "PATIENCE_S", 2.0)
    try:
        places.submit(task(1, tmp_path / "stopped-0.pt", tmp_path / "trial-0.safetensors"))
        with pytest.raises(WorkerError, match="1 of 1 trainers on Ray could not begin within 0 minutes: others may"):
            places.wait(lambda share: None)
    finally:
        places.close()


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "actors"),
    [([4, 4, 4, 4], 8, 0, 0), ([4, 4, 4, 4], 3, 0, 4), ([8, 2], 2, 0, 5), ([8, 2], 2, 1, 2), ([], 1, 0, 0)],
)
def test_how_many_find_room_on_the_machines_of_a_cluster(machines, cpus, gpus, actors):
    assert room([{"CPU": float(cores), "GPU": 1.0, "memory": 1e9} for cores in machines], cpus, gpus) == actors
    assert room([{"memory": 1e9}], cpus, gpus) == 0


def test_a_search_on_ray_is_stopped_and_killed_and_goes_on(tmp_path, monkeypatch, space_file, npz_file):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/ray-tests")
    given = ("--space", space_file, "--data", npz_file, "--epochs", 2, "--trials", 4, "--threads", 1)
    flags = (*given, "--executor", "ray", "--baselines", "none", "--out", tmp_path / "run")
    before = pd.DataFrame()
    for sent in (signal.SIGTERM, signal.SIGKILL):
        process = Warm("search", *flags, *["--resume"] * (len(before) > 0))
        wait_for_rows(tmp_path / "run" / "trials.csv", len(before) + 1)
        heirs = psutil.Process(process.pid).children(recursive=True)
        children = [each for each in heirs if "Agent" not in each.name()]  # Ray's own, which take a minute to notice
        begun = time.monotonic()
        os.kill(process.pid, sent)
        _, err = process.communicate(timeout=SECONDS)
        if sent == signal.SIGTERM:
            assert time.monotonic() - begun < 10  # which is promised
            assert process.returncode == 130 and "hybridnas: stopped; what finished is kept." in err, err
            assert (tmp_path / "run" / "pareto.png").is_file()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert children and not alive
        before = pd.read_csv(tmp_path / "run" / "trials.csv")
    process = Warm("search", *flags, "--resume")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    after = Run.load(tmp_path / "run").trials
    assert {*before.key} <= {*after.key} and after.key.nunique() == len(after) == 4
    assert (after.status != "failed").all()


def test_going_on_at_another_address_needs_no_word_of_ray(tmp_path, monkeypatch, capsys, space_file, npz_file):
    def refuse(*given, address, **named):
        raise WorkerError(f"asked {address}")

    monkeypatch.setattr("hybridnas.working.OnRay", refuse)
    monkeypatch.setattr("hybridnas.timing.Timer", make_timer)
    flags = ["--space", str(space_file), "--data", str(npz_file), "--threads", "1", "--out", str(tmp_path / "run")]
    for more, code, said in [
        ([*flags, "--executor", "ray", "--ray-address", "a:1"], 2, "asked a:1"),
        (["--resume", str(tmp_path / "run"), "--ray-address", "b:2"], 2, "asked b:2"),
        (["--resume", str(tmp_path / "run")], 2, "asked a:1"),
    ]:
        assert exit_code(app, more) == code
        assert capsys.readouterr().err == f"hybridnas: {said}\n"


def test_a_cluster_that_is_too_small(tmp_path):
    said = r"--workers 500: each needs a CPU core, and the Ray cluster has room for \d+\."
    with pytest.raises(WorkerError, match=said):
        OnRay(500, print, address=None, cpus=1, gpus=0)
