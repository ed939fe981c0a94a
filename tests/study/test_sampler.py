from __future__ import annotations

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler

from hybridnas.seeds import derive_seed
from hybridnas.space import SearchSpace
from hybridnas.study.sampler import NUM_STARTUP, distribution, make_sampler, suggest, to_params

TINY = SearchSpace.load("tiny")


def test_numbers_are_ordered_and_words_are_not() -> None:
    assert distribution([32, 48, 64]) == IntDistribution(32, 64, step=16)
    assert distribution([1, 2, 4]) == IntDistribution(0, 2)  # not evenly spaced: positions
    assert distribution([1.5, 2.5]) == IntDistribution(0, 1)
    assert distribution([4, 2]) == IntDistribution(2, 4, step=2)
    assert distribution([True, False]) == CategoricalDistribution([True, False])
    assert distribution(["conv", "patch"]) == CategoricalDistribution(["conv", "patch"])


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_an_enqueued_design_comes_back_as_itself(random) -> None:  # type: ignore[no-untyped-def]
    wanted = TINY.sample(lambda name, values: random.choice(values))
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.enqueue_trial(to_params(TINY, TINY.encode(wanted)))
    assert suggest(study.ask(), TINY) == wanted


def test_one_study_takes_every_sample_without_a_changed_choice() -> None:
    """Optuna refuses a name whose choices change, as a rule's do with the resolution."""
    space = SearchSpace.load("hybrid")
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(NUM_STARTUP + 13):
        study.sampler = make_sampler("tpe", 0, number)
        trial = study.ask()
        architecture = suggest(trial, space)
        study.tell(trial, [len(architecture.layout), architecture.stages[0].width])
    names = {name for trial in study.trials for name in trial.params if name.startswith("stage1.block")}
    assert len(names) == 2


def test_what_the_names_stand_for() -> None:
    for name in ("tpe", "gp"):
        sampler = make_sampler(name, 0, 1)
        tpe = sampler._independent_sampler if name == "gp" else sampler
        assert isinstance(sampler, GPSampler if name == "gp" else TPESampler)
        assert isinstance(tpe, TPESampler) and tpe._multivariate and tpe._group
    assert isinstance(make_sampler("nsga2", 0, 1), NSGAIISampler)
    assert isinstance(make_sampler("random", 0, 1), RandomSampler)


def test_derived_seeds_are_stable_and_spread() -> None:
    assert derive_seed(0, 1) == derive_seed(0, 1) != derive_seed(0, 2)
    assert len({derive_seed(0, n) for n in range(1000)}) == 1000
    assert all(0 <= derive_seed("x", n) < 2**31 for n in range(100))
