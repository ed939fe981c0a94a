"""Trust on networks whose truth is made up."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from hybridnas.proxy.trust import EQUAL, Estimate, Trust, comparable, compare, verdict


def made_up(num=60, *, noise=0.0, seed_noise=0.001, gain=0.0, seed=0):
    """Accuracies that follow from nothing counted; attention gains `gain` by training longer."""
    generator = np.random.default_rng(seed)
    truth = generator.uniform(0.5, 0.9, num)
    attention = generator.integers(0, 2, num).astype(float)
    long = (truth + gain * attention)[:, None] + generator.normal(0, seed_noise, (num, 3))
    short = 0.8 * truth + generator.normal(0, noise, num) if noise else 0.8 * truth
    latency = generator.uniform(1, 4, num)
    macs, params = (generator.integers(10**5, 10**7, num) for _ in range(2))
    return {"short": short, "long": long, "latency_ms": latency, "macs": macs, "params": params, "attention": attention}


def test_a_proxy_that_keeps_the_order_is_right_about_every_pair():
    found = compare(**made_up())
    assert found.accuracy == Estimate(1.0, 1.0, 1.0) and found.ceiling.value > 0.99
    assert found.tau.value > 0.99
    assert found.num_networks == 60 and 0 < found.num_pairs < 60 * 59 / 2
    assert found.more_macs.low < 0.5 < found.more_macs.high
    assert found.beats_nulls and abs(found.bias.value) < 0.002


def test_a_proxy_of_noise_is_right_by_chance_and_says_so():
    fields = made_up()
    fields["short"] = np.random.default_rng(9).uniform(size=60)
    found = compare(**fields)
    assert found.accuracy.low < 0.5 < found.accuracy.high and not found.beats_nulls
    assert "does NOT order" in verdict(found) and "raise --epochs" in verdict(found)


def test_the_pairs_counted_by_hand():
    short = [0.1, 0.2, 0.3, 0.3]
    long = [[0.5, 0.5], [0.7, 0.7], [0.6, 0.6], [0.9, 0.9]]
    latency = [1.0, 1.1, 1.15, 9.0]  # the last has no equal
    found = compare(short, long, latency, [1, 1, 2, 1], [3, 2, 1, 1], [0, 0, 0, 0])
    assert found.num_pairs == 3
    assert found.accuracy.value == pytest.approx(2 / 3)  # 0-1 and 0-2 right, 1-2 wrong
    assert found.more_macs.value == pytest.approx(1.5 / 3)  # 0-1 tied, 0-2 right, 1-2 wrong
    assert found.more_params.value == pytest.approx(1 / 3)  # 1-2 right
    assert found.tau.value == pytest.approx(kendalltau(short, np.mean(long, 1))[0])
    assert math.isnan(found.bias.value)  # no attention to compare with


def test_pairs_that_the_long_training_cannot_tell_apart_are_not_asked():
    fields = made_up(seed_noise=0.05)
    few, many = compare(**fields).num_pairs, compare(**made_up()).num_pairs
    assert 0 < few < many
    pairs = comparable(fields["long"], 0.05**2, fields["latency_ms"])
    assert not pairs.diagonal().any() and (pairs == pairs.T).all()
    ratio = fields["latency_ms"][:, None] / fields["latency_ms"]
    assert (np.maximum(ratio, 1 / ratio)[pairs] <= EQUAL).all()


def test_what_attention_gains_later_is_found():
    found = compare(**made_up(gain=0.03))
    assert found.bias.low < 0.03 < found.bias.high and found.bias.low > 0.02


def test_nothing_to_compare():
    alike = compare([0.1, 0.2, 0.3], [[0.5, 0.5]] * 3, [1, 1, 1], [1, 2, 3], [1, 2, 3], [0, 1, 0])
    assert alike.num_pairs == 0 and math.isnan(alike.accuracy.value) and not alike.beats_nulls
    assert str(alike.accuracy) == "unknown"
    assert verdict(alike).startswith("Only 0 pairs")


def test_a_ceiling_of_noise_is_chance():
    generator = np.random.default_rng(3)
    found = []
    for seed in range(20):
        fields = made_up(12, seed=seed) | {"latency_ms": np.ones(12), "long": generator.normal(0.7, 0.02, (12, 2))}
        found.append(compare(**fields).ceiling.value)
    assert 0.35 < np.nanmean(found) < 0.65


def test_a_lead_that_attention_lacks_in_short_training_is_found_whole():
    """Attention is ten points behind in the search and five ahead in the end."""
    fields = made_up()
    long = np.array(fields["long"])
    attention = fields["attention"]
    fields["short"] = long.mean(1) - 0.1 * attention
    assert compare(**fields).bias.value == pytest.approx(0.1, abs=0.01)


def test_of_few_pairs_nothing_is_said():
    found = compare([0.1, 0.2, 0.3], [[0.5, 0.5], [0.7, 0.7], [0.6, 0.6]], [1, 1, 1], [3, 2, 1], [3, 2, 1], [0, 0, 0])
    assert found.num_pairs == 3 and "nothing can be said" in verdict(found)


@pytest.mark.parametrize("long", [[[0.5, 0.6]] * 2, [[0.5]] * 4, [0.5] * 4])
def test_too_little_to_compare_is_refused(long):
    with pytest.raises(ValueError, match="at least 3 networks and 2 seeds, got shape"):
        compare([0.1] * len(long), long, [1] * len(long), [1] * len(long), [1] * len(long), [0] * len(long))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Of a proxy whose share of right pairs is known from very many networks."""
    truth = compare(**made_up(400, noise=0.08)).accuracy.value
    inside = [compare(**made_up(40, noise=0.08, seed=seed)).accuracy for seed in range(1, 21)]
    assert sum(each.low <= truth <= each.high for each in inside) >= 16


def test_a_good_verdict_names_the_figures():
    found = compare(**made_up())
    assert isinstance(found, Trust) and str(found.accuracy) == "1.00 (1.00 to 1.00)"
    assert verdict(found).startswith("Short training orders networks of equal latency better than counting does: 1.00")
