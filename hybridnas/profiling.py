"""Params, MACs and latency of networks, side by side."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.cost.latency import Timer, available_cores
from hybridnas.cost.macs import UncountedOperatorError, count_macs
from hybridnas.cost.predict import Counter, Predictor
from hybridnas.cost.reference import reference_for
from hybridnas.cost.runtimes import Setting
from hybridnas.cost.table import Table
from hybridnas.cost.targets import best_device
from hybridnas.errors import CannotRun, ConfigError, UserError, ZooError, first_clause
from hybridnas.model import build, image_batch, num_params
from hybridnas.starting import DESIGN, called_after

#: Drawings are written as.
KINDS = ("png", "svg")


def profile_models(
    models: Mapping[str, Architecture] | Iterable[str] | str,
    *,
    image_size: int | None = None,
    num_classes: int = 1000,
    batch_size: int = 1,
    target: str | None = None,
    runtime: str = "torch",
    precision: str = "fp32",
    threads: int | None = None,
    latency: bool = True,
    draw: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Measure networks on one target, one a row, in the order given.

    >>> from hybridnas import zoo
    >>> mine = zoo.load("mobilenetv2_100")  # or any architecture
    >>> table = profile_models({"mine": mine}, image_size=64, threads=1)
    >>> table.name.tolist(), table.layout.tolist(), table.image_size.tolist()
    (['mine'], ['CCCCC'], [64])
    >>> bool(table.latency_ms_p50[0] > 0)
    True
    >>> counted = profile_models(["mobilenetv2_100", "timm:mobilenetv2_100"], latency=False)
    >>> (counted.macs / 1e6).round().tolist()  # the paper prints 300 M
    [301.0, 301.0]

    Args:
        models: Names (of the zoo, `timm:NAME`, or paths of architecture.json files), or architectures by name.
        image_size: Pixels a side; None takes each network's own.
        num_classes: Scores of our networks; timm's have theirs.
        batch_size: Images a pass.
        target: cpu, cuda, cuda:N, mps, ssh://user@host[:port] or command:TEMPLATE; None is the best local device.
        runtime: A key of `hybridnas.cost.runtimes.RUNTIMES`.
        precision: One of the runtime's.
        threads: CPU threads; None takes all cores.
        latency: False counts only.
        draw: A folder for drawings of the architectures, NAME.png and NAME.svg, with each stage's share of the latency;
            None draws none.
        tell: Gets a line before each network.

    Returns:
        Columns name, layout, image_size, params, macs, latency_ms_p50, latency_ms_p95, throughput (images a second),
        batch_size, target, runtime, precision. Of our networks the deploy form is measured; timm's are reparameterised
        where they can be. What was not timed is None; timm's networks have no layout.

    Raises:
        UserError: an unknown name, target or runtime, a network that cannot be had or run at that size, or one to draw
            whose stages are not known.
    """
    setting = Setting(runtime, precision, batch_size, threads or available_cores())
    models = [models] if isinstance(models, str) else models
    target = target or best_device()
    named = {**models} if isinstance(models, Mapping) else {name: read_model(name) for name in models}
    if draw:
        _check_drawn(named)

    @cache
    def timer(reference: str) -> Timer:
        return Timer(target, **asdict(replace(setting, reference=reference)))

    rows = []
    for name, model in named.items():
        tell(f"measuring {name}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layout, network, size = _network(name, model, image_size, num_classes)
        try:
            macs = count_macs(network, size)
        except UncountedOperatorError as error:
            raise ConfigError(f"{name}: {error}") from None
        row: dict[str, Any] = {
            "name": name,
            "layout": layout,
            "image_size": size,
            "params": num_params(network),
            "macs": macs,
            "latency_ms_p50": None,
            "latency_ms_p95": None,
            "throughput": None,
            "batch_size": batch_size,
            "target": target,
            "runtime": runtime,
            "precision": precision,
        }
        if latency:
            try:
                measured = timer(reference_for(size)).measure(network, size)
            except CannotRun as error:  # memory, most of all
                raise ConfigError(f"{name} cannot be timed with batch {batch_size}: {error}.") from None
            row["latency_ms_p50"], row["latency_ms_p95"] = measured.p50, measured.p95
            row["throughput"] = 1000 * batch_size / measured.p50
        rows.append(row)
        if draw and model:
            drawn = replace(model, image_size=size)
            stage_ms = None
            if latency:
                try:
                    stage_ms = _stage_ms(drawn, num_classes, measured.p50, timer(reference_for(size)))
                except CannotRun as error:  # a part alone, where the network could be
                    tell(f"{name} is drawn without shares of latency: {error}")
            _draw(drawn, stage_ms, draw / _file_name(name))
    layouts = pd.Series([row["layout"] for row in rows], dtype=object)  # pandas 3 makes NaN of None among words
    return pd.DataFrame(rows).assign(layout=layouts)


def _check_drawn(named: Mapping[str, Architecture | None]) -> None:
    """Raise a ConfigError if not each has stages that can be drawn, and a name of its own."""
    files = [_file_name(name) for name in named]
    for (name, model), file in zip(named.items(), files, strict=True):
        if model is None:
            raise ConfigError(f"--draw: {name} is a model of timm, whose stages are not known here.")
        if files.count(file) > 1:
            raise ConfigError(f"--draw: several of these would be drawn as {file}.png.")


def _file_name(name: str) -> str:
    """Of a drawing: a file's name, or, of what lies in a run's best/, the run's."""
    if not name.endswith(".json"):
        return name.replace("/", "-")
    path = Path(name)
    return (called_after(path) if path.name == DESIGN else "") or path.stem


def _stage_ms(architecture: Architecture, num_classes: int, milliseconds: float, timer: Timer) -> list[float]:
    """What stem, each stage and head take of the milliseconds; parts that the table lacks are timed."""
    with closing(Table()) as table:
        predictor = Predictor(Counter(table, num_classes), timer)
        predictor.fill(predictor.missing([architecture]))
        return [milliseconds * share for share in predictor.shares(architecture)]


def _draw(architecture: Architecture, stage_ms: Sequence[float] | None, path: Path) -> None:
    from hybridnas.report.drawing import draw_architecture  # matplotlib takes two seconds
    from hybridnas.report.style import save

    title = f"{path.name}: {'-'.join(architecture.layout) or 'no blocks'}, {architecture.image_size} px"
    save(draw_architecture(architecture, stage_ms, title), *(path.with_name(f"{path.name}.{kind}") for kind in KINDS))


def read_model(name: str) -> Architecture | None:
    """The architecture that a name stands for; None where it is one of timm's models.

    Raises:
        UserError: neither the zoo nor timm has such a name, nor is it the path of an architecture.
    """
    if name.startswith("timm:"):
        import timm

        wanted = name.removeprefix("timm:")
        if not timm.is_model(wanted):
            near = difflib.get_close_matches(wanted, timm.list_models(), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()."
            raise ZooError(f"timm has no model {wanted!r}: {hint}")
        return None
    return zoo.read(name)


def _network(
    name: str, architecture: Architecture | None, image_size: int | None, num_classes: int
) -> tuple[str | None, nn.Module, int]:
    """Layout, the network in the form that is deployed, and its image size; it has run once at that size."""
    size = image_size or 0
    try:
        if architecture is None:
            network, size = _timm_network(name.removeprefix("timm:"), image_size)
            layout = None
        else:
            architecture = replace(architecture, image_size=image_size or architecture.image_size)
            layout, size = architecture.layout, architecture.image_size
            network = build(architecture, num_classes).deploy()
        with torch.inference_mode():
            network(image_batch(1, size))
    except UserError as error:
        raise ConfigError(f"{name}: {error}") from None
    except (RuntimeError, AssertionError, ValueError) as error:
        where = f" on images of {size} x {size}" if size else ""
        raise ConfigError(f"{name} cannot run{where}: {first_clause(error)}.") from None
    return layout, network, size


def _timm_network(name: str, image_size: int | None) -> tuple[nn.Module, int]:
    import timm

    from hybridnas.zoo.of_timm import create, deployed

    config = timm.get_pretrained_cfg(name)
    size = image_size or (config.input_size[-1] if config else 224)
    return deployed(create(name, size)), size
