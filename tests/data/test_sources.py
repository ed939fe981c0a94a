from __future__ import annotations

import gzip
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybridnas.data import arrays, cache, loading
from hybridnas.data.loading import Loading
from hybridnas.data.pictures import Files
from hybridnas.data.sources import open_source
from hybridnas.errors import DataError
from hybridnas.files import CACHE_VARIABLE

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
    data = source.load(Loading(8, max_train=100))
    assert data.class_names == ("green", "red")
    assert data.train.images.shape[1:] == (3, 8, 8)
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert tuple(image[:, 4, 4]) == (GREEN, RED)[label]


def test_kinds_of_images(tmp_path: Path) -> None:
    root = tmp_path / "kinds"
    for i in range(3):
        save(root / "b" / f"{i}.png", Image.new("RGB", (8, 8 + i)))
    save(root / "a" / "grey.png", Image.new("L", (8, 8), 100))
    save(root / "a" / "alpha.png", Image.new("RGBA", (8, 8), (100, 100, 100, 255)))
    save(root / "a" / "deep.png", Image.fromarray(np.full((8, 8), 100 << 8, np.uint16)))
    save(root / "a" / "indexed.png", Image.new("RGB", (8, 8), (100, 100, 100)).convert("P"))
    data = open_source(str(root)).load(Loading(8, max_train=100))
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
            save(tmp_path / "r" / name / f"{i}.jpg", Image.fromarray(pixels), exif=exif, comment=f"{name} {i}")
    image = open_source(str(tmp_path / "r")).load(Loading(16, max_train=10)).train.images[0]
    assert image[0, :6].mean() > 200 and image[0, -6:].mean() < 60


def test_train_and_test_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    folder.rename(tmp_path / "both" / "train")
    save(tmp_path / "both" / "test" / "red" / "x.png", Image.new("RGB", (9, 9), RED))
    data = open_source(str(tmp_path / "both")).load(Loading(8, max_train=100))
    assert data.test.labels.tolist() == [1]
    assert len(data.train) + len(data.validation) == 12
    save(tmp_path / "both" / "test" / "blue" / "x.png", Image.new("RGB", (9, 9)))
    with pytest.raises(DataError, match="has a class 'blue' that .* lacks"):
        open_source(str(tmp_path / "both"))


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "VALIDATION")])
def test_parts_are_found_however_they_are_spelt(folder: Path, tmp_path: Path, train: str, test: str) -> None:
    root = tmp_path / "parts"
    shutil.copytree(folder, root / train)
    for name in ("green", "red"):
        save(root / test / name / "other.png", Image.new("RGB", (9, 9), (7, 7, 7)))
    (root / "annotations").mkdir()
    data = open_source(str(root)).load(Loading(8))
    assert data.class_names == ("green", "red") and len(data.test) == 2


@pytest.mark.parametrize(
    "parts",
    [
        ("train_set/red", "train_set/green", "test_set/red"),  # would be two classes, and tested on what is trained on
        ("red", "green", "test/red"),
        ("train", "test"),  # without classes
        ("Training Data/red", "Training Data/green"),
    ],
)
def test_what_is_called_like_a_part_is_no_class(folder: Path, tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        shutil.copytree(folder / "red", tmp_path / "odd" / part)
    with pytest.raises(DataError, match=r"odd/.* is called like a part of the data and not one of its classes: put"):
        open_source(str(tmp_path / "odd"))


def test_a_class_may_be_called_train(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "vehicles")
    for i in range(6):
        save(tmp_path / "vehicles" / "train" / f"{i}.png", Image.new("RGB", (20 + i, 20), (30, 30, 200)))
    assert open_source(str(tmp_path / "vehicles")).load(Loading(8)).class_names == ("green", "red", "train")


def test_photos_of_a_kind_that_pillow_lacks_are_told(folder: Path) -> None:
    for name in ("a.HEIC", "b.heic", "notes.txt"):
        (folder / "red" / name).write_bytes(b"ftypheic")
    (folder / "green" / "c.nef").write_bytes(b"raw")
    (note,) = [each for each in open_source(str(folder)).load(Loading(8)).notes if "Pillow" in each]
    assert note == "photos of kinds that Pillow cannot read here are left out: 2 .heic, 1 .nef"


def test_an_unreadable_image_is_named(folder: Path) -> None:
    (folder / "red" / "4.png").write_bytes(b"\x89PNG no image")
    with pytest.raises(DataError, match=r"red/4\.png cannot be read as an image: cannot identify .* --max-bad"):
        open_source(str(folder)).load(Loading(8, max_bad=0))


def test_a_few_unreadable_images_are_left_out_and_named(folder: Path) -> None:
    for i in (2, 3):
        (folder / "red" / f"{i}.png").write_bytes((folder / "red" / f"{i}.png").read_bytes()[:50])
    for _ in range(2):  # decoded now, then from the cache
        data = open_source(str(folder)).load(Loading(8, max_bad=2))
        assert sum(len(part) for part in (data.train, data.validation, data.test)) == 10
        (note,) = data.notes
        assert note.startswith("2 images cannot be read and are left out: ") and "red/2.png (" in note
        for part in (data.train, data.validation, data.test):
            for image, label in zip(part.images, part.labels, strict=True):
                assert tuple(image[:, 4, 4]) == (GREEN, RED)[label]
    with pytest.raises(DataError, match=r"red/[23]\.png cannot be read as an image: .*after 1 others"):
        open_source(str(folder)).load(Loading(8, max_bad=1))


def test_images_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_source(str(folder)).load(Loading(8))
    assert isinstance(first.train.images, np.memmap)
    monkeypatch.setattr(loading, "_decode", None)
    again = open_source(str(folder)).load(Loading(8))
    assert again.fingerprint() == first.fingerprint()
    monkeypatch.undo()
    (folder / "red" / "0.png").write_bytes((folder / "green" / "0.png").read_bytes())
    changed = open_source(str(folder)).load(Loading(8))
    assert changed.fingerprint() != first.fingerprint()
    assert "1 images are copies" in changed.notes[0]


def test_decoding_is_told(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    data = open_source(str(folder)).load(Loading(9, tell=lambda *words: told.append(words)))
    count = len(data.train)
    assert [done for doing, done, total in told if doing == "decoding" and total == count][:count] == [
        *range(1, count + 1)
    ]


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(cache, "LIMIT", 2500)
    for i, key in enumerate("abac"):  # a thousand bytes each, and a head
        images, filled = cache.cached(key, (10, 1, 10, 10), lambda images: [])
        assert images.shape == (10, 1, 10, 10) and len(filled) == 10
        path = tmp_path / "images" / f"{key}.npy"
        os.utime(path, (i, i))
    assert {path.stem for path in (tmp_path / "images").glob("*.npy")} == {"a", "c"}


def test_what_a_killed_process_left_half_decoded_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    cache.cached("a", (1, 1, 2, 2), lambda images: [])
    for name, age in ((".b.npy.1", cache.ABANDONED_S + 60), (".c.npy.2", 60)):
        (tmp_path / "images" / name).write_bytes(b"half")
        then = time.time() - age
        os.utime(tmp_path / "images" / name, (then, then))
    cache.cached("d", (1, 1, 2, 2), lambda images: [])
    names = {path.name for path in (tmp_path / "images").iterdir()}
    assert names == {"a.npy", "a.json", "d.npy", "d.json", ".c.npy.2"}


def test_what_could_be_filled_is_kept_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(cache, "AT_ONCE", 3)

    def fill(images: np.ndarray) -> list[int]:
        images[:] = np.arange(10, dtype=np.uint8)[:, None, None, None]
        return [0, 4, 9]

    for _ in range(2):  # made, and read
        images, filled = cache.cached("a", (10, 1, 2, 2), fill)
        assert filled.tolist() == [1, 2, 3, 5, 6, 7, 8] == images[:, 0, 1, 1].tolist()
        assert isinstance(images, np.memmap)
        monkeypatch.setattr(cache, "_write", None)


@pytest.mark.parametrize("damaged", ["a.npy", "a.json"])
@pytest.mark.parametrize("content", [b"", b"[3, 4", b"\x93NUMPY\x01\x00v\x00"])
def test_damaged_images_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str, content: bytes
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))

    def fill(images: np.ndarray) -> list[int]:
        images[:] = 7
        return [3]

    cache.cached("a", (10, 1, 2, 2), fill)
    (tmp_path / "images" / damaged).write_bytes(content)
    images, filled = cache.cached("a", (10, 1, 2, 2), fill)
    assert images.shape == (9, 1, 2, 2) and (images == 7).all() and 3 not in filled


def test_a_table_of_paths(folder: Path, tmp_path: Path) -> None:
    rows = [
        f"colours/{name}/{i}.png,{name},{'test' if i == 5 else 'train'}" for name in ("red", "green") for i in range(6)
    ]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    source = open_source(str(tmp_path / "list.csv"))
    data = source.load(Loading(8))
    assert (source.native_size, data.class_names, len(data.test)) == (22, ("green", "red"), 2)
    assert all(
        tuple(image[:, 4, 4]) == (GREEN, RED)[label]
        for image, label in zip(data.train.images, data.train.labels, strict=True)
    )
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *(row.rpartition(",")[0] for row in rows)]))
    data = open_source(str(tmp_path / "list.csv")).load(Loading(8))
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column path and label; .* says nothing"),
        ("file,label\na.png,b\n", "lacks the column path; .* says file,label"),
        ("path,label\na.png,\n", "line 2: path and label must both be given"),
        ("path,label,split\na.png,b,dev\n", "line 2: split must be train or test, got 'dev'"),
        ("path,label,split\na.png,b,train\nc.png,d,test\n", "class 'd' stands in the test part alone"),
        ("path,label\n", "names no images"),
        ("path,label\nnowhere.png,a\nneither.png,b\n", "nowhere.png cannot be read as an image"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "x.csv"))


def test_a_data_set_of_the_hub_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = datasets.ClassLabel(names=["green", "red"])
    features = datasets.Features({"picture": datasets.Image(), "kind": names})
    for split, count in (("train", 20), ("test", 6)):
        pictures = [
            Image.new("RGB", (12 + i, 14 if split == "train" else 15), (GREEN, RED)[i % 2]) for i in range(count)
        ]
        rows = datasets.Dataset.from_dict({"picture": pictures, "kind": [i % 2 for i in range(count)]}, features)
        (tmp_path / "colours").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "colours" / f"{split}-00000-of-00001.parquet")
    source = open_source(f"hf:{tmp_path / 'colours'}")
    data = source.load(Loading(8))
    assert (source.native_size, data.name, data.class_names) == (12, "colours", ("green", "red"))
    assert len(data.train) + len(data.validation) == 20 and len(data.test) == 6
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert tuple(image[:, 4, 4]) == (GREEN, RED)[label]


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"--data hf:\S+ cannot be loaded"):
        open_source(f"hf:{tmp_path / 'nothing'}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'hybridnas\[hf\]'"):
        open_source("hf:mnist")


def test_an_npz_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (50, 6, 5, 3), np.uint8)
    labels = np.arange(50) % 2
    for name, order in (("c", "C"), ("f", "F")):
        np.savez_compressed(tmp_path / f"{name}.npz", train_images=np.asarray(images, order=order), train_labels=labels)
        monkeypatch.setattr(arrays, "PIECE", 7 * 6 * 5 * 3)
        data = open_source(str(tmp_path / f"{name}.npz")).load(Loading(5))
        parts = (data.train, data.validation, data.test)
        found = {
            image.tobytes(): int(label) for part in parts for image, label in zip(part.images, part.labels, strict=True)
        }
        assert found == {
            image.transpose(2, 0, 1).tobytes(): int(label) for image, label in zip(images, labels, strict=True)
        }


def test_one_class_only(tmp_path: Path) -> None:
    save(tmp_path / "one" / "a" / "0.png", Image.new("RGB", (8, 8)))
    with pytest.raises(DataError, match="holds 1 class folders; at least two"):
        open_source(str(tmp_path / "one"))


def test_npz(npz_file: Path) -> None:
    source = open_source(str(npz_file))
    data = source.load(Loading(16))
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
        (
            {"train_labels": 10**9 + np.arange(12), "class_names": None},
            "no class_names, and a label is 1000000011",
        ),
        ({"test_images": np.zeros((2, 8, 8, 3), np.uint8)}, "must come together"),
        ({"train_images": np.array([None]), "train_labels": np.zeros(1, int)}, "holds images of several sizes"),
    ],
)
def test_wrong_npz(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "x.npz")).load(Loading(8, max_train=100))


def test_no_npz_at_all(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    for content in (b"PK no zip", b"", (tmp_path / "one.npy").read_bytes()):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as an npz file"):
            open_source(str(tmp_path / "x.npz"))
    with pytest.raises(DataError, match="does not exist"):
        open_source(str(tmp_path / "none"))


def test_torchvision_reads_what_its_cache_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading code, on MNIST files that the test writes where a download would have put them."""
    raw = tmp_path / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 40), ("t10k", 20)):
        shades = np.repeat(np.arange(count, dtype=np.uint8) % 2 * 200, 28 * 28).reshape(count, 28, 28)
        shades[:, 0, 0] = np.arange(count) + (100 if name == "train" else 0)  # no two are the same
        pixels = shades.tobytes()
        labels = bytes(i % 2 for i in range(count))
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + pixels)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(b""))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    source = open_source("torchvision:MNIST")
    assert source.native_size == 28
    with pytest.raises(DataError, match="class '2 - two' has 0 different training images"):
        source.load(Loading(14, max_train=100))  # MNIST has ten classes, these files two
    monkeypatch.setattr("torchvision.datasets.MNIST.classes", ["0 - zero", "1 - one"])
    data = source = open_source("torchvision:MNIST").load(Loading(14, max_train=100))
    assert data.class_names == ("0 - zero", "1 - one")
    assert (data.train.images[:, 0, 7, 7] == data.train.labels * 200).all() and len(data.test) == 20


def test_torchvision_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match="did you mean CIFAR10?"):
        open_source("torchvision:cifar10")
    with pytest.raises(DataError, match="no data set 'os'"):
        open_source("torchvision:os")
    with pytest.raises(DataError, match="torchvision:Kinetics cannot be made without arguments of its own: "):
        open_source("torchvision:Kinetics")


def test_torchvisions_sets_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of boxes or masks: an image has no one class."""
    import torchvision

    class Boxes(torchvision.datasets.VisionDataset):
        def __init__(self, root: str, train: bool) -> None:
            super().__init__(root)

        def __getitem__(self, i: int) -> tuple[object, object]:
            return None, {"boxes": []}

        def __len__(self) -> int:
            return 3

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "Boxes", Boxes, raising=False)
    with pytest.raises(DataError, match="torchvision:Boxes is not of images with one class each: "):
        open_source("torchvision:Boxes")


def test_a_file_that_is_gone_for_a_moment_is_not_left_out_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network: what was left out would be kept as left out of images that are whole."""
    monkeypatch.setenv(CACHE_VARIABLE, str(folder.parent))
    content_key = loading._content_key

    def gone(self: Files, i: int, most: int = -1) -> bytes:
        raise OSError("Stale file handle")

    def then_gone(*given: Any) -> tuple[str, set[int]]:
        found = content_key(*given)
        patch.setattr(Files, "read", gone)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(loading, "_content_key", then_gone)
        with pytest.raises(DataError, match="could be read, and then not: Stale file handle; try again"):
            open_source(str(folder)).load(Loading(8))
    assert not [note for note in open_source(str(folder)).load(Loading(8)).notes if "left out" in note]


def test_memory_that_ran_out_is_no_fault_of_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out would be kept as left out."""

    monkeypatch.setenv(CACHE_VARIABLE, str(folder.parent))

    def exhausted(image: Image.Image, size: int) -> None:
        raise MemoryError

    monkeypatch.setattr("hybridnas.data.loading.square", exhausted)
    with pytest.raises(MemoryError):
        open_source(str(folder)).load(Loading(9))


def test_an_image_with_a_damaged_note_of_a_camera_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(folder.parent))

    def stumble(image: Image.Image) -> None:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr("hybridnas.data.loading.ImageOps.exif_transpose", stumble)
    with pytest.raises(DataError, match="unpack requires a buffer of 4 bytes"):
        open_source(str(folder)).load(Loading(9, max_bad=0))


def test_a_damaged_npz_is_one_sentence(npz_file: Path, tmp_path: Path) -> None:
    content = bytearray(npz_file.read_bytes())
    content[len(content) // 3] ^= 255
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as an npz file: Bad CRC"):
        open_source(str(tmp_path / "x.npz")).load(Loading(16))


def test_a_damaged_compressed_npz_is_one_sentence_wherever_it_is(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    images, labels = generator.integers(0, 256, (40, 6, 6), np.uint8), generator.integers(0, 2, 40)
    np.savez_compressed(tmp_path / "x.npz", train_images=images, train_labels=labels)
    whole = (tmp_path / "x.npz").read_bytes()
    said = set()
    for place in range(0, len(whole), len(whole) // 40):
        content = bytearray(whole)
        content[place] ^= 255
        (tmp_path / "x.npz").write_bytes(content)
        try:
            open_source(str(tmp_path / "x.npz")).load(Loading(6))
        except DataError as error:
            said.add(type(error.__context__).__name__)
    assert {"error", "BadZipFile"} <= said  # zlib's, too


def test_names_of_classes_in_an_npz(npz_file: Path, tmp_path: Path) -> None:
    with np.load(npz_file) as file:
        arrays = dict(file)
    np.savez(tmp_path / "x.npz", **arrays | {"class_names": np.array([b"cat", b"dog", "öl".encode()])})
    assert open_source(str(tmp_path / "x.npz")).load(Loading(16)).class_names == ("cat", "dog", "öl")
    np.savez(tmp_path / "x.npz", **arrays | {"class_names": np.array("cat,dog,bird")})
    with pytest.raises(DataError, match=r"class_names must be a list of names, got an array of shape \(\)"):
        open_source(str(tmp_path / "x.npz"))


def test_grey_images_are_not_tested_on_colours(npz_file: Path, tmp_path: Path) -> None:
    with np.load(npz_file) as file:
        arrays = dict(file)
    arrays["test_images"] = np.stack(3 * [arrays["test_images"]], -1)
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match="both parts must be grey .*; of channels train_images 1 and test_images 3"):
        open_source(str(tmp_path / "x.npz"))


def test_an_empty_test_part_is_none(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (40, 6, 6), np.uint8)
    empty = {"test_images": images[:0], "test_labels": np.zeros(0, int)}
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=np.arange(40) % 2, **empty)
    assert len(open_source(str(tmp_path / "x.npz")).load(Loading(6)).test) == 8
