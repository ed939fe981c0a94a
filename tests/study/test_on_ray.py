"""A real Ray cluster of two nodes on this machine. Its programs are started and watched in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hybridnas import Run, SearchConfig, run_search
from hybridnas.errors import ConfigError, DataError, TrainingFailed, WorkerError
from hybridnas.proxy.evaluation import Task
from hybridnas.proxy.training import Recipe
from hybridnas.study.on_ray import OnRay, Remote
from hybridnas.zoo.of_timm import TimmModel

pytest.importorskip("ray")

CLUSTER = """
import sys, threading, time
from pathlib import Path
from murders import make_timer
from ray.cluster_utils import Cluster
import hybridnas.timing
from hybridnas import SearchConfig, run_search

space, data, folder = sys.argv[1:]
hybridnas.timing.Timer = make_timer
QUICK = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}  # to see that a node is lost
head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
cluster = Cluster(initialize_head=True, head_node_args=head)
lost, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
config = dict(epochs=3, rungs=(1,), threads=1, executor="ray", ray_address=cluster.address, workers=2)

def lose():
    while not (Path(folder) / "trials.csv").exists() or len((Path(folder) / "trials.csv").read_text().splitlines()) < 2:
        time.sleep(0.05)
    cluster.remove_node(lost, allow_graceful=False)
    print("lost", flush=True)

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
    assert "lost" in done.stdout
    trials = Run.load(tmp_path / "run").trials
    assert len(trials) == 7 == trials.key.nunique() and (trials.status.isin(["complete", "pruned"])).all()
    assert (trials.status == "complete").sum() >= 3
    assert pd.read_csv(tmp_path / "run" / "trials.csv").accuracy.between(0, 1).all()
    Run.load(tmp_path / "run").best_model()


def test_ray_that_cannot_be_used_is_said_in_a_sentence(tmp_path, monkeypatch, space_file, npz_file):
    with pytest.raises(ConfigError, match="--ray-address: is for --executor ray, got local"):
        SearchConfig.checked(ray_address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    config = SearchConfig(space=str(space_file), data=str(npz_file), threads=1, executor="ray", ray_address="auto")
    with pytest.raises(ConfigError, match=r"--executor ray needs Ray: pip install 'hybridnas\[ray\]'"):
        run_search(config.model_copy(update={"out": tmp_path / "none"}))
    assert not (tmp_path / "none").exists()
    monkeypatch.undo()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(WorkerError, match="--ray-address auto cannot be reached"):
        run_search(config.model_copy(update={"out": tmp_path / "run"}))


def test_data_that_a_machine_has_not_are_said(monkeypatch):
    def lacks_data(place):
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


def test_a_cluster_that_is_too_small(tmp_path):
    with pytest.raises(WorkerError, match=r"--workers 500: they need 500 CPUs and the Ray cluster has \d+"):
        OnRay(500, print, address=None, cpus=1, gpus=0)
