from __future__ import annotations

import numpy as np
import pytest

from hybridnas.proxy.rungs import default_rungs, num_places, standings


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, (1,)), (2, (2,)), (3, (1, 3)), (8, (2, 8)), (10, (1, 3, 10)), (27, (1, 3, 9, 27))]
)
def test_each_rung_is_a_third_of_the_next(epochs: int, expected: tuple[int, ...]) -> None:
    assert default_rungs(epochs) == expected


def test_a_third_goes_on_and_the_first_at_once() -> None:
    assert [num_places(n) for n in (1, 2, 3, 4, 6, 7, 30)] == [1, 1, 1, 2, 2, 3, 10]


def test_the_front_goes_on_first() -> None:
    # Columns are minimised: the error and the milliseconds.
    scores = np.array([[0.5, 3.0], [0.2, 4.0], [0.6, 4.0], [0.4, 2.0], [0.9, 1.0]])
    assert set(standings(scores)[:3]) == {1, 3, 4} and standings(scores)[3:] == [0, 2]


def test_of_one_front_the_ends_and_the_lonely_go_on_first() -> None:
    scores = np.array([[5.0, 0.0], [4.0, 1.0], [3.9, 1.1], [1.0, 2.0], [0.0, 5.0]])
    order = standings(scores)
    assert set(order[:2]) == {0, 4} and order[2] == 3


def test_half_of_the_places_are_dealt_out_to_families() -> None:
    error = np.arange(30) / 30  # the later, the worse
    families = ["conv"] * 18 + ["attention"] * 12
    places = num_places(30)
    without = standings(error[:, None])[:places]
    assert without == list(range(10))
    first = standings(error[:, None], families)[:places]
    assert sum(families[row] == "attention" for row in first) == 10 * 12 // 60 == 2
    assert [row for row in first if families[row] == "attention"] == [18, 19]
    assert sorted(standings(error[:, None], families)) == list(range(30))
