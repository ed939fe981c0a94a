from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridnas.data.dataset import Part, make_dataset, stratified
from hybridnas.errors import DataError


def numbered(labels: np.ndarray) -> Part:
    """Images whose pixels hold their own index, so that a split can be read off them."""
    return Part(
        labels, lambda chosen: np.broadcast_to(chosen.astype(np.uint8)[:, None, None, None], (len(chosen), 1, 4, 4))
    )


def ids(images: np.ndarray) -> set[int]:
    return set(images[:, 0, 0, 0].tolist())


def test_parts_are_disjoint_stratified_and_repeatable() -> None:
    labels = np.array([0] * 100 + [1] * 50 + [2] * 10, np.int64)
    make = lambda seed: make_dataset("d", numbered(labels), None, ("a", "b", "c"), seed=seed, max_train=1000)  # noqa: E731
    data = make(0)
    parts = [ids(part.images) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 160
    assert np.bincount(data.test.labels).tolist() == [20, 10, 2]
    assert np.bincount(data.validation.labels).tolist() == [16, 8, 2]
    assert all(
        (labels[part.images[:, 0, 0, 0]] == part.labels).all() for part in (data.train, data.validation, data.test)
    )
    assert make(0).fingerprint() == data.fingerprint() != make(1).fingerprint()


def test_a_given_test_part_is_kept_and_limits_are_stratified() -> None:
    labels = np.arange(200, dtype=np.int64) % 4
    data = make_dataset(
        "d",
        numbered(labels),
        numbered(np.arange(8, dtype=np.int64) % 4),
        tuple("abcd"),
        seed=0,
        max_train=40,
        max_validation=20,
    )
    assert np.bincount(data.train.labels).tolist() == [10] * 4
    assert np.bincount(data.validation.labels).tolist() == [5] * 4
    assert ids(data.test.images) == set(range(8))


@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.floats(0.01, 0.99))
def test_stratified_gives_every_class_to_both_sides(counts: list[int], share: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    first, rest = stratified(labels, np.arange(len(labels)), share, np.random.default_rng(0))
    assert sorted([*first, *rest]) == list(range(len(labels)))
    assert set(labels[first]) == set(labels[rest]) == set(range(len(counts)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 20, "at least two classes"),
        ([0] * 20 + [1] * 20 + [3] * 20, "labels must lie in 0..2, got 3"),
        ([0] * 20 + [1] * 20 + [-1], "labels must lie in 0..2, got -1"),
        ([0] * 20 + [1] * 20 + [2] * 2, "class 'c' has 2 training images"),
        ([0] * 20 + [1] * 20, "class 'c' has 0 training images"),
    ],
)
def test_labels_that_cannot_be_split_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_dataset("d", numbered(np.array(labels, np.int64)), None, ("a", "b", "c"), seed=0, max_train=100)
