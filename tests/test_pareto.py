import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridnas.pareto import front, hypervolume, ranking

# Few different values, so that ties and duplicates are common.
COARSE = st.integers(0, 6).map(lambda n: n / 6)
FINE = st.floats(0, 1)
POINTS = st.lists(st.tuples(COARSE | FINE, COARSE | FINE), max_size=25)
POINTS_WITH_NAN = st.lists(st.tuples(COARSE | st.just(math.nan), COARSE | st.just(math.nan)), max_size=20)


def dominates(a, b):
    """No worse in both, better in one; points are (accuracy, cost)."""
    return a[0] >= b[0] and a[1] <= b[1] and (a[0] > b[0] or a[1] < b[1])


def brute_force_front(points):
    kept = [
        i
        for i, point in enumerate(points)
        if not any(math.isnan(value) for value in point)
        and not any(dominates(other, point) for other in points)
        and point not in points[:i]
    ]
    return sorted(kept, key=lambda i: points[i][1])


def unzip(points):
    return [accuracy for accuracy, _ in points], [cost for _, cost in points]


@given(POINTS)
def test_front_is_the_brute_force_one(points):
    assert front(*unzip(points)) == brute_force_front(points)


@given(POINTS_WITH_NAN)
def test_nan_is_never_on_the_front_and_hides_nobody(points):
    assert front(*unzip(points)) == brute_force_front(points)


@given(POINTS)
def test_along_the_front_cost_and_accuracy_both_rise(points):
    kept = [points[i] for i in front(*unzip(points))]
    for (accuracy, cost), (next_accuracy, next_cost) in zip(kept, kept[1:], strict=False):
        assert next_cost > cost
        assert next_accuracy > accuracy


def test_of_equal_points_the_first_is_kept():
    assert front([0.5, 0.5, 0.5], [1.0, 1.0, 1.0]) == [0]


def test_infinite_cost_loses_to_any_finite_one():
    assert front([0.5, 0.5], [math.inf, 1.0]) == [1]


def test_nothing_has_no_front():
    assert front([], []) == []
    assert front([math.nan], [1.0]) == []
    assert hypervolume([], [], worst_cost=1.0) == 0.0


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="got 2 and 1"):
        front([0.1, 0.2], [1.0])


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 14)), max_size=12))
def test_hypervolume_is_the_number_of_dominated_cells(points):
    # The area is a count of unit cells: (a, c) is dominated by a point with accuracy > a and cost <= c.
    worst_cost = 10
    cells = sum(
        any(accuracy > a and cost <= c for accuracy, cost in points) for a in range(10) for c in range(worst_cost)
    )
    assert hypervolume(*unzip(points), worst_cost=worst_cost) == pytest.approx(cells, abs=1e-9)


def test_hypervolume_of_two_points_in_closed_form():
    # Two rectangles: (4 - 1) * 0.5 and, above it, (4 - 2) * (0.75 - 0.5).
    assert hypervolume([0.5, 0.75], [1.0, 2.0], worst_cost=4.0) == 3 * 0.5 + 2 * 0.25


def test_hypervolume_beyond_the_worst_cost_is_zero():
    assert hypervolume([0.9, 0.8], [3.0, 2.0], worst_cost=2.0) == 0.0


@given(POINTS, st.tuples(FINE, FINE))
def test_another_point_never_shrinks_the_hypervolume(points, another):
    before = hypervolume(*unzip(points), worst_cost=1.0)
    after = hypervolume(*unzip([*points, another]), worst_cost=1.0)
    assert after >= before - 1e-12
    assert 0.0 <= after <= 1.0 + 1e-12


@given(st.lists(st.tuples(COARSE, COARSE, COARSE), min_size=1, max_size=25))
def test_whoever_is_dominated_comes_later(points):
    scores = np.array(points)
    order = ranking(scores)
    assert sorted(order) == list(range(len(points)))
    place = {row: i for i, row in enumerate(order)}
    for a, one in enumerate(scores):
        for b, other in enumerate(scores):
            if (one <= other).all() and (one < other).any():
                assert place[a] < place[b]
