"""The calibration on sums whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hybridnas.cost.calibration import CALL, OWN, TAILS, Calibration, Sum

KINDS = ("stem", "transition", "head", "mbconv", "window", "global")
FACTORS = {"stem": 1.0, "transition": 0.95, "head": 1.1, "mbconv": 0.9, "window": 1.15, "global": 1.05}


def sums(number, seed=0, kinds=KINDS):
    """Networks of three of four kinds of body and of all else, from a tenth of the reference to ten times."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        shares = generator.dirichlet(np.ones(len(kinds)))
        total = 10 ** generator.uniform(-1, 1)
        found.append(Sum(dict(zip(kinds, total * shares, strict=True))))
    return found


def true_ratio(parts, factors=FACTORS):
    return sum(factors[kind] * time for kind, time in parts.by_kind.items())


def errors(calibration, held_out):
    return np.array([calibration.predict(parts)[0] / true_ratio(parts) - 1 for parts in held_out])


def test_without_networks_it_is_the_sum():
    for parts in sums(20):
        ratio, half = Calibration().predict(parts)
        assert ratio == pytest.approx(parts.total)
        assert 0.1 < half / ratio
    assert Calibration().num_networks == 0


def test_the_prior_holds_half_as_much_again_for_possible():
    (parts,) = sums(1)
    ratio, half = Calibration().predict(parts)
    assert 0.3 < half / ratio < 1


def test_known_factors_are_found():
    known = sums(60)
    calibration = Calibration(known, [true_ratio(parts) for parts in known])
    held_out = sums(100, seed=1)
    assert np.abs(errors(calibration, held_out)).max() < 0.02
    before = np.abs(errors(Calibration(), held_out))
    assert np.median(before) > 5 * np.median(np.abs(errors(calibration, held_out)))
    assert calibration.num_networks == 60


def test_what_calls_cost_is_found():
    """Half as much again as an empty part costs: much for small networks."""

    def truth(parts):
        return parts.total - 1.5 * parts.calls

    known = [replace(parts, calls=0.02) for parts in sums(80, seed=2)]
    calibration = Calibration(known, [truth(parts) for parts in known])
    for parts in (replace(parts, calls=0.02) for parts in sums(50, seed=3)):
        assert calibration.predict(parts)[0] == pytest.approx(truth(parts), rel=0.03)


def test_calls_are_taken_off_before_any_network_was_timed():
    (parts,) = sums(1)
    without, _ = Calibration().predict(parts)
    found, _ = Calibration().predict(replace(parts, calls=0.1 * parts.total))
    assert found / without == pytest.approx(1 - 0.1 * CALL)


def test_that_further_blocks_are_quicker_is_found():
    """As those of a deep body are: their code is in the caches already."""

    def truth(parts):
        return parts.total - 0.2 * parts.repeats

    generator = np.random.default_rng(8)
    known = [replace(parts, repeats=parts.total * generator.uniform(0, 0.9)) for parts in sums(80, seed=8)]
    calibration = Calibration(known[:40], [truth(parts) for parts in known[:40]])
    for parts in known[40:]:
        assert calibration.predict(parts)[0] == pytest.approx(truth(parts), rel=0.03)


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_a_few_bad_measurements_do_little(share):
    generator = np.random.default_rng(4)
    known = sums(80, seed=4)
    bad = generator.random(len(known)) < share
    ratios = [true_ratio(parts) * (1.8 if wrong else 1.0) for parts, wrong in zip(known, bad, strict=True)]
    assert bad.any()
    found = errors(Calibration(known, ratios), sums(100, seed=5))
    assert np.abs(np.median(found)) < 0.015
    assert np.quantile(np.abs(found), 0.9) < 0.05


def test_the_interval_holds_about_as_often_as_it_says():
    """Residuals as it believes them: Student's t with four degrees of freedom."""
    held = []
    for seed in range(8):
        generator = np.random.default_rng(seed)

        def measured(parts, generator=generator):
            return true_ratio(parts) + parts.total * 0.04 * generator.standard_t(4)

        known = sums(60, seed=10 + seed)
        calibration = Calibration(known, [measured(parts) for parts in known])
        for parts in sums(100, seed=100 + seed):
            ratio, half = calibration.predict(parts)
            held.append(abs(measured(parts) - ratio) < half)
    assert 0.92 < np.mean(held) < 0.98


def test_more_networks_make_it_narrower():
    (parts,) = sums(1, seed=6)
    widths = []
    for number in (0, 5, 20, 80):
        known = sums(number, seed=7)
        widths.append(Calibration(known, [true_ratio(each) for each in known]).predict(parts)[1])
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0] / 3


def test_kinds_that_no_network_had_make_it_wider():
    known = sums(60, kinds=KINDS[:-1])
    calibration = Calibration(known, [true_ratio(parts) for parts in known])
    (parts,) = sums(1, seed=8, kinds=KINDS[:-1])
    ratio, half = calibration.predict(parts)
    new = {("global" if kind == "mbconv" else kind): time for kind, time in parts.by_kind.items()}
    other_ratio, other_half = calibration.predict(Sum(new))
    assert other_half / other_ratio > 1.2 * half / ratio
    # A kind of its own may lie as far from the sum as before any network was timed.
    quantile = stats.t.ppf(0.975, TAILS)
    assert other_half >= quantile * OWN * new["global"]


def test_one_network_moves_it_part_of_the_way():
    (parts,) = sums(1, seed=9)
    ratio, half = Calibration([parts], [1.2 * parts.total]).predict(parts)
    assert parts.total < ratio < 1.2 * parts.total
    assert half < Calibration().predict(parts)[1]


def test_figures_scale_with_the_sum():
    known = sums(30, seed=11)
    calibration = Calibration(known, [true_ratio(parts) for parts in known])
    (parts,) = sums(1, seed=12)
    twice = Sum({kind: 2 * time for kind, time in parts.by_kind.items()})
    assert calibration.predict(twice) == pytest.approx([2 * value for value in calibration.predict(parts)])
