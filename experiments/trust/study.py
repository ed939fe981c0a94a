"""How well short trainings put networks of equal latency in the order of long ones, and what buys that the cheapest.

    python experiments/trust/study.py sample [--networks 40]       # once: random networks of `tiny`, timed on the CPU
    python experiments/trust/study.py train DATA [VARIANT ...]     # goes on where it stopped; several may run at once
    python experiments/trust/study.py report DATA

`--folder` holds the tables; trainings run on a GPU where there is one. DATA is `synthetic` (the embedded default) or a
path of Fashion-MNIST's npz, of which 20,000 images are trained on. The reference trains five times the epochs of the
default with several seeds. A variant changes one thing of the default.
"""

import argparse
import csv
import json
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from hybridnas import Architecture, SearchSpace, build
from hybridnas.cost import count_macs
from hybridnas.cost.reference import reference
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.model import num_params
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.proxy.trust import Estimate, compare
from hybridnas.trusting import attention_share, spread_sample

HERE = Path(__file__).parent
#: So many are drawn for each that is taken.
NUM_DRAWN = 1.5
#: Of each network, for its latency, and what the reference network takes on a quiet core here.
PASSES, REFERENCE_MS = 32, 13.0
#: Slower networks, which have 36 blocks in a stage, take hours to train here.
MOST_MS = 14.5
#: On Fashion-MNIST, where a training takes twice as long: the quicker ones.
MOST_MS_FASHION = 12.5
#: Seeds of the reference and the default; the variants get one.
NUM_SEEDS = 2
EPOCHS = 3


@dataclass(frozen=True)
class Variant:
    """What a training changes of the default, and on how many times its images it trains."""

    changes: dict = field(default_factory=dict)
    images: float = 1.0


@dataclass(frozen=True)
class Data:
    """Images that the default trains on, and the reference."""

    images: int
    reference: Variant
    most_ms: float


EMBEDDED = Data(1600, Variant({"epochs": 5 * EPOCHS}), MOST_MS)
FASHION = Data(4000, Variant({"epochs": EPOCHS}, 5.0), MOST_MS_FASHION)

VARIANTS = {
    "default": Variant(),
    "1 epoch of three times the images": Variant({"epochs": 1}, 3.0),
    "6 epochs of half the images": Variant({"epochs": 6}, 0.5),
    "1 epoch": Variant({"epochs": 1}),
    "2 epochs": Variant({"epochs": 2}),
    "24 px": Variant({"image_size": 24}),
    "rate / 2": Variant({"learning_rate": 3e-3}),
    "rate x 2": Variant({"learning_rate": 12e-3}),
    "averaged weights": Variant({"ema_decay": 0.99}),
    "batch 16": Variant({"batch_size": 16}),
    "batch 64": Variant({"batch_size": 64}),
    "no smoothing": Variant({"label_smoothing": 0.0}),
    "no shift": Variant({"shift": 0.0}),
    "warm-up 5 %": Variant({"warm_up": 0.05}),
}


def sample(folder: Path, count: int) -> None:
    space, generator = SearchSpace.load("tiny"), random.Random(2024)
    torch.set_num_threads(1)
    unit, given = reference("small")
    networks: dict[str, Architecture] = {}
    while len(networks) < NUM_DRAWN * count:
        network = space.sample(lambda _, values: generator.choice(values))
        networks[network.key] = network
    rows = []
    for number, (key, network) in enumerate(networks.items()):
        ms = milliseconds(build(network, 16).deploy(), network.image_size, unit, given.shape[-1])
        if ms <= MOST_MS:
            rows.append({"number": number, "key": key, "status": "complete", "worst_latency": round(ms, 4)})
    chosen = spread_sample(pd.DataFrame(rows), count).drop(columns=["status"])
    drawn = [networks[key] for key in chosen.key]
    modules = [build(network, 16).deploy() for network in drawn]
    chosen["macs"] = [count_macs(module, own.image_size) for module, own in zip(modules, drawn, strict=True)]
    chosen["params"] = [num_params(module) for module in modules]
    chosen["attention"] = [round(attention_share(network), 3) for network in drawn]
    chosen["families"] = [network.families for network in drawn]
    chosen["architecture"] = [network.to_json(indent=None) for network in drawn]
    chosen.to_csv(folder / "networks.csv", index=False)


def milliseconds(model: nn.Module, size: int, unit: nn.Module, unit_size: int) -> float:
    """The quicker half of passes, in turns with those of a reference, which takes REFERENCE_MS by definition."""
    taken: dict[nn.Module, list[float]] = {model: [], unit: []}
    with torch.inference_mode():
        for _ in range(PASSES):
            for module, side in ((model, size), (unit, unit_size)):
                x = torch.zeros(1, 3, side, side)
                start = time.perf_counter()
                module(x)
                taken[module].append(time.perf_counter() - start)
    own, other = (float(np.quantile(times[2:], 0.25)) for times in taken.values())
    return own / other * REFERENCE_MS


def load(data: str) -> tuple[str, Data]:
    """A short name, and what trains how on it."""
    return ("synthetic", EMBEDDED) if data == "synthetic" else (Path(data).stem, FASHION)


def train(folder: Path, data: str, variants: list[str]) -> None:
    name, sizes = load(data)
    file = folder / f"trained_{name}.csv"
    if not file.exists():
        file.write_text("number,variant,seed,accuracies,seconds\n")
    networks = pd.read_csv(folder / "networks.csv")
    networks = networks[networks.worst_latency <= sizes.most_ms]
    torch.set_num_threads(1)
    trainers: dict[int, Trainer] = {}
    chosen = variants or ["reference", *VARIANTS]
    # In any order, so that what was trained when one stops is of all latencies.
    for row in networks.sample(frac=1, random_state=0).itertuples():
        for name_of in chosen:
            variant = sizes.reference if name_of == "reference" else VARIANTS[name_of]
            images = int(variant.images * sizes.images)
            if images not in trainers:
                trainers[images] = make_trainer(data, images)
            if len(trainers[images].dataset.train) < images:
                continue  # the embedded images are no more
            changes = dict(variant.changes)
            size = changes.pop("image_size", None)
            recipe = replace(Recipe(epochs=EPOCHS), **changes)
            network = Architecture.from_json(row.architecture)
            if size:
                network = replace(network, image_size=size)
            for seed in range(NUM_SEEDS if name_of in ("reference", "default") else 1):
                claim = folder / "claims" / f"{name} {row.number} {name_of} {seed}".replace("/", "_")
                if done(file, row.number, name_of, seed) or not claimed(claim):
                    continue
                start = time.perf_counter()
                result = trainers[images].train(network, recipe, seed=1000 * row.number + seed + seed_of(name_of))
                seconds = time.perf_counter() - start
                with file.open("a", newline="") as out:
                    accuracies = " ".join(f"{accuracy:.4f}" for accuracy in result.accuracies)
                    csv.writer(out).writerow([row.number, name_of, seed, accuracies, round(seconds, 2)])


def make_trainer(data: str, images: int) -> Trainer:
    """With the same validation images whatever the number to train on."""
    dataset = open_source(data).load(Loading(32, max_train=20_000))
    part = replace(dataset.train, images=dataset.train.images[:images], labels=dataset.train.labels[:images])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Trainer(replace(dataset, train=part), device, threads=1)


def seed_of(variant: str) -> int:
    """No variant is seen from the reference's seeds."""
    return 500 if variant == "reference" else 0


def done(file: Path, number: int, variant: str, seed: int) -> bool:
    return f"\n{number},{variant},{seed}," in file.read_text()


def claimed(path: Path) -> bool:
    """Whether this process is the first to want a training; remove the folder of claims before starting again."""
    path.parent.mkdir(exist_ok=True)
    try:
        path.touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


def report(folder: Path, data: str) -> None:
    name, _ = load(data)
    trained = pd.read_csv(folder / f"trained_{name}.csv")
    networks = pd.read_csv(folder / "networks.csv").set_index("number")
    trained["accuracy"] = trained.accuracies.str.split().str[-1].astype(float)
    table = trained.pivot_table(index="number", columns=["variant", "seed"], values="accuracy")
    seconds = trained.groupby("variant").seconds.mean()
    whole = table["reference"].dropna()
    print(f"{len(whole)} networks; reference {whole.mean().mean():.3f} on average, {seconds['reference']:.1f} s each")
    proxies = {
        variant: [table[variant][seed].dropna() for seed in table[variant]] for variant in VARIANTS if variant in table
    }
    proxies |= derived(trained, folder / "zero_cost.csv")
    lines = []
    for variant, scores in proxies.items():
        found = []
        for score in scores:
            both = score.index.intersection(whole.index)
            if len(both) < 0.9 * len(whole):
                continue
            about = networks.loc[both]
            found.append(
                compare(
                    score[both].tolist(),
                    whole.loc[both].to_numpy().tolist(),
                    about.worst_latency.tolist(),
                    about.macs.tolist(),
                    about.params.tolist(),
                    about.attention.tolist(),
                )
            )
        if not found:
            continue
        if not lines:
            one = found[0]
            print(
                f"{one.num_pairs} pairs of equal latency that differ; ceiling {one.ceiling}, "
                f"more MACs {one.more_macs}, more parameters {one.more_params}"
            )
        lines.append(
            {
                "variant": variant,
                "pairwise accuracy": mean([each.accuracy for each in found]),
                "Kendall's tau": mean([each.tau for each in found]),
                "attention's gain": mean([each.bias for each in found]),
                "seeds": len(found),
                "share of the reference's seconds": round(
                    seconds.get(variant, seconds["default"]) / seconds["reference"], 3
                ),
            }
        )
    print(pd.DataFrame(lines).to_markdown(index=False) if lines else "nothing to compare")
    (folder / f"report_{name}.json").write_text(json.dumps(lines, indent=1))


def derived(trained: pd.DataFrame, scores: Path) -> dict[str, list[pd.Series]]:
    """Proxies that follow from the default's trainings and from scores that need none (zero_cost.py), if there are."""
    zero = pd.read_csv(scores).set_index("number") if scores.exists() else pd.DataFrame()
    found: dict[str, list[pd.Series]] = {}
    default = trained[trained.variant == "default"]
    for _, rows in default.groupby("seed"):
        epochs = rows.set_index("number").accuracies.str.split(expand=True).astype(float)
        last = epochs[EPOCHS - 1]
        found.setdefault("slope on to twice the epochs", []).append(last + (last - epochs[EPOCHS - 2]))
        for name in zero:
            both = last.rank() + 0.25 * zero[name].rank()[last.index]
            found.setdefault(f"default, and a quarter of {name}", []).append(both)
    return found | {f"{name} alone": [zero[name]] for name in zero}


def mean(estimates: list[Estimate]) -> str:
    return str(Estimate(*(float(np.mean([getattr(e, part) for e in estimates])) for part in ("value", "low", "high"))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["sample", "train", "report"])
    parser.add_argument("data", nargs="?", default="synthetic")
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--networks", type=int, default=40)
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    if arguments.what == "sample":
        sample(arguments.folder, arguments.networks)
    elif arguments.what == "train":
        train(arguments.folder, arguments.data, arguments.variants)
    else:
        report(arguments.folder, arguments.data)


if __name__ == "__main__":
    main()
