"""A space and a data set so small that a whole search takes seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from multiprocessing.util import get_temp_dir
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from processes import BRISK

from hybridnas.cost import predict

# Machines that test are shared: a slow example says nothing about the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

SPACE = """\
image_size: 16
stem: {type: conv, width: [8, 16]}
stages:
  - {transition: [conv, patch], block: [mbconv, convnext, repmixer, window, global], depth: [1, 2], width: [8, 16]}
  - {transition: [conv, patch], block: [mbconv, convnext, repmixer, window, global], depth: [0, 1, 2], width: [16, 24]}
blocks:
  window: {window: 2, head_dim: 8, expand: 2}
  global: {head_dim: 8, expand: 2}
"""


@pytest.fixture(scope="session")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="session")
def npz_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes told apart by where an image is bright: learnt within two epochs."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, (330, 16, 16), dtype=np.uint8)
    labels = np.arange(330) % 3
    for label in range(3):
        images[labels == label, 5 * label : 5 * label + 5] += 100
    path = tmp_path_factory.mktemp("data") / "bands.npz"
    np.savez(
        path,
        train_images=images[:270],
        train_labels=labels[:270],
        test_images=images[270:],
        test_labels=labels[270:],
        class_names=np.array(["top", "middle", "bottom"]),
    )
    return path


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's table of parts, nor does a command that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_locks() -> Iterator[None]:
    """Locks on a device lie in the folder for temporary files: tests at once need not wait for each other's timers."""
    get_temp_dir()  # multiprocessing's, which it removes itself when the process ends
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True, scope="session")
def _brisk() -> Iterator[None]:
    """Searches in the test's own process; those that a test starts as a command take their time, and draw all."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in BRISK.items():
            patch.setattr(name, value)
        yield


@pytest.fixture(autouse=True, scope="session")
def _counted_once() -> Iterator[None]:
    """What a part of a network counts is the same in every test, whose tables are empty: a sixth of a search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_count", cache(predict._count))
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small networks gain nothing from threads that fight for cores with other processes."""
    torch.set_num_threads(1)
