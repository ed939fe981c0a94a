"""Where the trainings of a search run: in this process, in `--workers` of their own, or on a Ray cluster."""

from __future__ import annotations

from functools import partial

import psutil
import torch
from rich.console import Console

from hybridnas.config import TINY_LIMIT, SearchConfig
from hybridnas.cost.latency import available_cores
from hybridnas.cost.targets import local_device
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import RunError
from hybridnas.proxy.evaluation import Evaluate, evaluate
from hybridnas.proxy.training import Trainer
from hybridnas.study.executors import Executor, Serial
from hybridnas.study.on_ray import OnRay
from hybridnas.study.workers import Workers

#: Of a search that may have as many as pay.
MOST_WORKERS = 4


def workers_that_pay(config: SearchConfig, image_size: int) -> int:
    """How many trainings at once use this machine best, where none were asked for. The data are loaded by then.

    On a CPU networks for small images gain little from threads (experiments/throughput), so that each core has one of
    its own, up to a few and as far as memory goes. Others have all cores, or the device, to themselves, as has what is
    to repeat exactly; and of a cluster nothing is known here.

    Args:
        config: The settings, with every other default said.
        image_size: The largest that is trained on.
    """
    if config.device != "cpu" or image_size > TINY_LIMIT or config.frozen_table or config.executor == "ray":
        return 1
    fitting = psutil.virtual_memory().available // psutil.Process().memory_info().rss
    return max(1, min(MOST_WORKERS, available_cores(), fitting))


def share_of_cores(workers: int) -> int:
    """CPU cores for each of some processes."""
    return max(1, available_cores() // workers)


def workers_here(config: SearchConfig) -> int:
    """How many trainings share this machine's cores: on a Ray cluster, which has its own, none does."""
    assert config.workers
    return 1 if config.ray_address else config.workers


def open_places(config: SearchConfig, trainer: Trainer, image_size: int, console: Console) -> Executor:
    """What does a search's trainings, ready to.

    Args:
        config: The settings, with every default said.
        trainer: Trains in this process.
        image_size: Of the images as they are loaded.
        console: Where a warning is printed if memory will not do.

    Raises:
        WorkerError: processes that train cannot be started.
    """
    assert config.workers
    told = config.model_copy(update={"storage": None})  # whose password is no other process's business
    setup = partial(_set_up, told, image_size, trainer.dataset.fingerprint())
    if config.executor == "ray":
        with console.status(f"starting {config.workers} trainers on Ray"):
            gpus = int(trainer.device.type == "cuda")
            return OnRay(config.workers, setup, address=config.ray_address, cpus=trainer.threads, gpus=gpus)
    if config.workers == 1:
        return Serial(partial(evaluate, trainer))
    need, free = config.workers * psutil.Process().memory_info().rss, psutil.virtual_memory().available
    if need > free:
        console.print(
            f"warning: {config.workers} workers need about {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are "
            "free; fewer --workers may be quicker.",
            style="bold",
        )
    with console.status(f"starting {config.workers} workers"):
        return Workers(config.workers, partial(setup, trainer.threads))


def _set_up(config: SearchConfig, image_size: int, fingerprint: str, threads: int, place: int) -> Evaluate:
    """Make a trainer in a worker, on the same data."""
    assert config.device
    dataset = open_source(config.data).load(Loading(image_size, config.seed, config.train_images, config.max_bad))
    if dataset.fingerprint() != fingerprint:
        raise RunError(f"--data {config.data} is not the same for every process.")
    device = local_device(config.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", place % torch.cuda.device_count())
    torch.set_num_threads(threads)
    return partial(evaluate, Trainer(dataset, device, threads=threads))
