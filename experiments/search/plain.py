"""The script that one writes in an afternoon: Optuna, a loop that times, a short training for each trial.

    python experiments/search/plain.py --sampler tpe --budget-ms 8 --time 270 --seed 0 --out plain.csv

Same space, data, network builder and training function as hybridnas; no table, no rungs, no known designs. A network
over the budget is not trained, but it is built and timed first. Its settings are chosen as well as the manual allows:
TPE multivariate and grouped, NSGA-II with a population that fits the number of trials.
"""

import argparse
import csv
import statistics
import time
import warnings

import optuna
import torch

from hybridnas import SearchSpace, build
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import OutOfTime, TrainingFailed
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.study.sampler import suggest

parser = argparse.ArgumentParser()
parser.add_argument("--sampler", choices=["tpe", "nsga2"], default="tpe")
parser.add_argument("--space", default="tiny")
parser.add_argument("--data", default="synthetic")
parser.add_argument("--budget-ms", type=float, default=8.0)
parser.add_argument("--time", type=float, default=270.0)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="plain.csv")
arguments = parser.parse_args()

started = time.monotonic()
torch.set_num_threads(1)
warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.WARNING)
space = SearchSpace.load(arguments.space)
dataset = open_source(arguments.data).load(Loading(max(space.file.image_size), arguments.seed, 4000))
trainer = Trainer(dataset, torch.device("cpu"), threads=1)
samplers = {
    "tpe": optuna.samplers.TPESampler(multivariate=True, group=True, n_startup_trials=10, seed=arguments.seed),
    "nsga2": optuna.samplers.NSGAIISampler(population_size=10, seed=arguments.seed),
}
study = optuna.create_study(directions=["maximize", "minimize"], sampler=samplers[arguments.sampler])


def milliseconds(architecture):
    model = build(architecture, dataset.num_classes).deploy().eval()
    image = torch.rand(1, 3, architecture.image_size, architecture.image_size)
    times = []
    with torch.inference_mode():
        for i in range(60):
            start = time.perf_counter()
            model(image)
            if i >= 10:
                times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


with open(arguments.out, "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["ended", "accuracy", "latency_ms", "architecture"])
    while time.monotonic() - started < arguments.time:
        trial = study.ask()
        architecture = suggest(trial, space)
        latency = milliseconds(architecture)
        trial.set_constraint("budget", latency - arguments.budget_ms)
        if latency > arguments.budget_ms:
            # TPE learns from the constraint of a pruned trial; NSGA-II reads trials with values alone.
            if arguments.sampler == "nsga2":
                study.tell(trial, [0.0, latency])
            else:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        left = arguments.time - (time.monotonic() - started)
        try:
            accuracy = trainer.train(
                architecture, Recipe(arguments.epochs), seed=trial.number, seconds_left=left
            ).accuracy
        except TrainingFailed as problem:
            print(problem)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        except OutOfTime:
            break
        study.tell(trial, [accuracy, latency])
        ended = round(time.monotonic() - started, 1)
        rows.writerow([ended, accuracy, latency, architecture.to_json(indent=None)])
        file.flush()
        print(f"{ended:6.1f} s  {accuracy:.3f}  {latency:.2f} ms  {architecture.families}", flush=True)
