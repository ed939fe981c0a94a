from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybridnas.data import sources
from hybridnas.data.sources import open_source
from hybridnas.errors import DataError

RED, GREEN = (200, 30, 30), (30, 200, 30)


def save(path: Path, image: Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "colours"
    for i in range(6):
        save(root / "green" / f"{i}.png", Image.new("RGB", (20 + i, 30), GREEN))
        save(root / "red" / f"{i}.png", Image.new("RGB", (30, 20 + i), RED))
    return root


def test_a_folder_of_class_folders(folder: Path) -> None:
    source = open_source(str(folder))
    assert source.native_size == 22  # the median of the shorter sides 20..25
    data = source.load(8, 0, 100)
    assert data.class_names == ("green", "red")
    assert data.train.images.shape[1:] == (3, 8, 8)
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert tuple(image[:, 4, 4]) == (GREEN, RED)[label]


def test_kinds_of_images(tmp_path: Path) -> None:
    root = tmp_path / "kinds"
    for i in range(3):
        save(root / "b" / f"{i}.png", Image.new("RGB", (8, 8)))
    save(root / "a" / "grey.png", Image.new("L", (8, 8), 100))
    save(root / "a" / "alpha.png", Image.new("RGBA", (8, 8), (100, 100, 100, 255)))
    save(root / "a" / "deep.png", Image.fromarray(np.full((8, 8), 100 << 8, np.uint16)))
    save(root / "a" / "indexed.png", Image.new("RGB", (8, 8), (100, 100, 100)).convert("P"))
    data = open_source(str(root)).load(8, 0, 100)
    for part in (data.train, data.validation, data.test):
        for image in part.images[part.labels == 0]:
            assert np.abs(image.astype(int) - 100).max() <= 3, image[:, 0, 0]


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white; shown rotated by 90 degrees clockwise, the white half is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        for i in range(3):
            save(tmp_path / "r" / name / f"{i}.jpg", Image.fromarray(pixels), exif=exif)
    image = open_source(str(tmp_path / "r")).load(16, 0, 10).train.images[0]
    assert image[0, :6].mean() > 200 and image[0, -6:].mean() < 60


def test_train_and_test_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    folder.rename(tmp_path / "both" / "train")
    save(tmp_path / "both" / "test" / "red" / "x.png", Image.new("RGB", (9, 9), RED))
    data = open_source(str(tmp_path / "both")).load(8, 0, 100)
    assert data.test.labels.tolist() == [1]
    assert len(data.train) + len(data.validation) == 12
    save(tmp_path / "both" / "test" / "blue" / "x.png", Image.new("RGB", (9, 9)))
    with pytest.raises(DataError, match="has a class 'blue' that .* lacks"):
        open_source(str(tmp_path / "both"))


def test_an_unreadable_image_is_named(folder: Path) -> None:
    (folder / "red" / "4.png").write_bytes(b"\x89PNG no image")
    with pytest.raises(DataError, match=r"red/4\.png cannot be read as an image"):
        open_source(str(folder)).load(8, 0, 100)


def test_one_class_only(tmp_path: Path) -> None:
    save(tmp_path / "one" / "a" / "0.png", Image.new("RGB", (8, 8)))
    with pytest.raises(DataError, match="holds 1 class folders; at least two"):
        open_source(str(tmp_path / "one"))


def test_npz(npz_file: Path) -> None:
    source = open_source(str(npz_file))
    data = source.load(16, 0, 1000)
    assert (source.native_size, data.class_names) == (16, ("top", "middle", "bottom"))
    assert data.train.images.shape == (216, 1, 16, 16) and len(data.validation) == 54 and len(data.test) == 60


GOOD = {"train_images": np.zeros((12, 8, 8, 3), np.uint8), "train_labels": np.arange(12) % 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": None}, "lacks train_images; it has train_labels"),
        ({"train_images": np.zeros((12, 8, 8, 3))}, "must be uint8 .* got float64"),
        ({"train_images": np.zeros((12, 8, 8, 4), np.uint8)}, r"got uint8 of shape \(12, 8, 8, 4\)"),
        ({"train_labels": np.zeros(11, int)}, r"integers of shape \(12,\), got int64 of shape \(11,\)"),
        ({"train_labels": np.zeros(12)}, "got float64"),
        ({"train_labels": np.zeros(12, int)}, "at least two classes"),
        ({"train_labels": np.arange(12) % 3, "class_names": np.array(["a", "b"])}, "labels must lie in 0..1, got 2"),
        ({"test_images": np.zeros((2, 8, 8, 3), np.uint8)}, "must come together"),
        ({"train_images": np.array([None]), "train_labels": np.zeros(1, int)}, "cannot be read as an npz file"),
    ],
)
def test_wrong_npz(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "x.npz")).load(8, 0, 100)


def test_no_npz_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="cannot be read as an npz file"):
        open_source(str(tmp_path / "x.npz"))
    with pytest.raises(DataError, match="does not exist"):
        open_source(str(tmp_path / "none"))


def test_torchvision_reads_what_its_cache_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading code, on MNIST files that the test writes where a download would have put them."""
    raw = tmp_path / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 40), ("t10k", 20)):
        pixels = np.repeat(np.arange(count, dtype=np.uint8) % 2 * 200, 28 * 28).tobytes()
        labels = bytes(i % 2 for i in range(count))
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + pixels)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(b""))
    monkeypatch.setattr(sources, "user_cache_path", lambda name: tmp_path)
    source = open_source("torchvision:MNIST")
    assert source.native_size == 28
    with pytest.raises(DataError, match="class '2 - two' has 0 training images"):
        source.load(14, 0, 100)  # MNIST has ten classes, these files two
    monkeypatch.setattr("torchvision.datasets.MNIST.classes", ["0 - zero", "1 - one"])
    data = source = open_source("torchvision:MNIST").load(14, 0, 100)
    assert data.class_names == ("0 - zero", "1 - one")
    assert (data.train.images[:, 0, 7, 7] == data.train.labels * 200).all() and len(data.test) == 20


def test_torchvision_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "user_cache_path", lambda name: tmp_path)
    with pytest.raises(DataError, match="did you mean CIFAR10?"):
        open_source("torchvision:cifar10")
    with pytest.raises(DataError, match="no data set 'os'"):
        open_source("torchvision:os")
