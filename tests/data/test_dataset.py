from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridnas.data.dataset import Dataset, Part, make_dataset, stratified
from hybridnas.errors import DataError


def numbered(labels: np.ndarray, digests: np.ndarray | None = None) -> Part:
    """Images whose pixels hold their own index, so that a split can be read off them."""
    return Part(labels, load, digests)


def load(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.broadcast_to(chosen.astype(np.uint8)[:, None, None, None], (len(chosen), 1, 4, 4)), chosen


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
        ([0] * 20 + [1] * 20 + [2] * 2, "class 'c' has 2 different training images"),
        ([0] * 20 + [1] * 20, "class 'c' has 0 different training images"),
    ],
)
def test_labels_that_cannot_be_split_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_dataset("d", numbered(np.array(labels, np.int64)), None, ("a", "b", "c"), seed=0, max_train=100)


def test_copies_stay_on_one_side() -> None:
    labels = np.arange(200, dtype=np.int64) % 2
    digests = (np.arange(200) // 10 * 2 + labels).astype(np.uint64)  # five copies of each of 40 images
    data = make_dataset("d", numbered(labels, digests), None, ("a", "b"), seed=0, max_train=1000)
    sides = [{int(digests[i]) for i in ids(part.images)} for part in (data.train, data.validation, data.test)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 40
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 200
    assert data.notes == ("160 images are copies of others and stay on their side",)


def test_what_stands_in_the_test_part_is_not_trained_on() -> None:
    labels = np.arange(40, dtype=np.int64) % 2
    digests = np.arange(40).astype(np.uint64)
    test = Part(labels[:10], load, digests[:10])
    data = make_dataset("d", numbered(labels, digests), test, ("a", "b"), seed=0, max_train=1000)
    assert ids(data.train.images) | ids(data.validation.images) == set(range(10, 40))
    assert data.notes == ("10 training images stand in the test part, too, and are left out",)


def test_classes_of_unequal_size_are_told() -> None:
    def data(small: int) -> Dataset:
        labels = np.array([0] * 100 + [1] * small, np.int64)
        return make_dataset("d", numbered(labels), None, ("cat", "dog"), seed=0, max_train=1000)

    assert data(60).is_balanced and not data(60).notes
    (note,) = data(20).notes
    assert not data(20).is_balanced
    assert "'cat' 64 training images, 'dog' 13" in note and "mean of the classes'" in note
    assert data(60).num_weighed == len(data(60).validation)
    # Two classes of 16 and 3: the mean of their accuracies varies as one of 4 / (1/16 + 1/3) images does.
    assert np.bincount(data(20).validation.labels).tolist() == [16, 3]
    assert data(20).num_weighed == pytest.approx(4 / (1 / 16 + 1 / 3))


def test_images_that_cannot_be_read_are_left_out() -> None:
    labels = np.arange(60, dtype=np.int64) % 3
    part = Part(labels, lambda chosen: load(chosen[chosen % 6 != 0]))
    data = make_dataset("d", part, None, ("a", "b", "c"), seed=0, max_train=1000)
    seen = [part.images[:, 0, 0, 0] for part in (data.train, data.validation, data.test)]
    assert sorted(np.concatenate(seen)) == [i for i in range(60) if i % 6]
    for found, part in zip(seen, (data.train, data.validation, data.test), strict=True):
        assert (labels[found] == part.labels).all()
    with pytest.raises(DataError, match="no image of class 'a' is left"):
        make_dataset(
            "d", Part(labels, lambda chosen: load(chosen[chosen % 3 != 0])), None, tuple("abc"), seed=0, max_train=99
        )
