"""From the `--data` flag to images in memory: the embedded default, a folder, an npz file, a torchvision data set."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from platformdirs import user_cache_path

from hybridnas.data.dataset import Dataset, Images, Part, make_dataset
from hybridnas.data.synthetic import synthetic_dataset
from hybridnas.errors import DataError

SYNTHETIC = "synthetic"
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class Source:
    """A data set that was found and listed. `native_size` is the shorter side of its images, None where any will do."""

    name: str
    native_size: int | None
    load: Callable[[int, int, int], Dataset]  # (image_size, seed, max_train)


def open_source(spec: str) -> Source:
    """Find what the `--data` flag names: 'synthetic', a folder of class folders, an .npz file, 'torchvision:NAME'.

    Raises:
        DataError: it does not exist, cannot be read, or holds no classes.
    """
    if spec == SYNTHETIC:
        return Source(SYNTHETIC, None, lambda size, seed, _: synthetic_dataset(size, seed=seed))
    scheme, colon, name = spec.partition(":")
    if colon and scheme == "torchvision":
        return _torchvision(name)
    path = Path(spec)
    if path.is_dir():
        return _folder(path)
    if path.is_file() and path.suffix == ".npz":
        return _npz(path)
    problem = "is not an .npz file" if path.is_file() else "does not exist"
    raise DataError(
        f"--data {spec} {problem}; give a folder of class folders, an .npz file, torchvision:NAME, or nothing for the "
        "embedded data."
    )


def _folder(path: Path) -> Source:
    """`path`/CLASS/image, or `path`/train/CLASS/image with `path`/test (or val) beside it."""
    root = path / "train" if (path / "train").is_dir() else path
    test_root = next((path / name for name in TEST_FOLDERS if (path / name).is_dir()), None) if root != path else None
    class_names = tuple(sorted(child.name for child in root.iterdir() if child.is_dir()))
    if len(class_names) < 2:
        raise DataError(f"{root} holds {len(class_names)} class folders; at least two are needed.")
    if test_root:
        for child in sorted(test_root.iterdir()):
            if child.is_dir() and child.name not in class_names:
                raise DataError(f"{test_root} has a class {child.name!r} that {root} lacks.")
    files, labels = _list_images(root, class_names)
    if not files:
        raise DataError(f"{root} holds no images.")
    sample = [min(_image_dimensions(file)) for file in files[:: max(1, len(files) // 32)]]
    native_size = int(np.median(sample))

    def load(image_size: int, seed: int, max_train: int) -> Dataset:
        def part(files: Sequence[Path], labels: list[int]) -> Part:
            return Part(np.array(labels, np.int64), lambda chosen: _decode([files[i] for i in chosen], image_size))

        test = part(*_list_images(test_root, class_names)) if test_root else None
        return make_dataset(path.name, part(files, labels), test, class_names, seed=seed, max_train=max_train)

    return Source(path.name, native_size, load)


def _list_images(root: Path, class_names: Sequence[str]) -> tuple[list[Path], list[int]]:
    endings = Image.registered_extensions()
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(file for file in (root / name).rglob("*") if file.suffix.lower() in endings)
        files += found
        labels += [label] * len(found)
    return files, labels


def _image_dimensions(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image: {error}.") from None


def _decode(files: Sequence[Path], image_size: int) -> Images:
    """RGB images (N, 3, image_size, image_size) of the files, decoded in parallel."""
    images = np.empty((len(files), 3, image_size, image_size), np.uint8)

    def one(i: int) -> None:
        try:
            with Image.open(files[i]) as image:
                images[i] = _square(image, image_size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{files[i]} cannot be read as an image: {error}.") from None

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(one, range(len(files))):
            pass
    return images


def _square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """(3, size, size): upright, RGB, the shorter side scaled to `size`, the longer one cropped centrally."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel; PIL's own conversion to RGB would clip them
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _npz(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an npz file: {error}.") from None
    missing = [key for key in NPZ_KEYS[:2] if key not in arrays]
    if missing:
        raise DataError(
            f"{path} lacks {' and '.join(missing)}; it has {', '.join(arrays) or 'nothing'}. "
            f"Known keys are {', '.join(NPZ_KEYS)}."
        )
    if ("test_images" in arrays) != ("test_labels" in arrays):
        raise DataError(f"{path}: test_images and test_labels must come together.")
    train = _npz_part(path, arrays, "train")
    test = _npz_part(path, arrays, "test") if "test_images" in arrays else None
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"])
    else:
        highest = max(int(part.labels.max(initial=0)) for part in (train, test) if part)
        class_names = tuple(str(label) for label in range(highest + 1))
    native_size = min(_channels_first(arrays["train_images"]).shape[2:])

    def load(image_size: int, seed: int, max_train: int) -> Dataset:
        return make_dataset(path.stem, train, test, class_names, seed=seed, max_train=max_train)

    return Source(path.stem, native_size, load)


def _npz_part(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Part:
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DataError(
            f"{path}: {part}_images must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"got {images.dtype} of shape {images.shape}."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise DataError(
            f"{path}: {part}_labels must be integers of shape ({len(images)},), got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    if not len(images) and part == "train":
        raise DataError(f"{path}: train_images is empty.")
    images = _channels_first(images)
    return Part(labels.astype(np.int64), lambda chosen: images[chosen])


def _channels_first(images: NDArray[np.uint8]) -> Images:
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _torchvision(name: str) -> Source:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, torchvision.datasets.VisionDataset)):
        near = [n for n in torchvision.datasets.__all__ if n.lower() == name.lower()]
        hint = f"; did you mean {near[0]}?" if near else "; see torchvision.datasets for the names."
        raise DataError(f"torchvision has no data set {name!r}{hint}")
    train, test = (_torchvision_part(name, kind, training) for training in (True, False))
    classes = getattr(train, "classes", None) or range(1 + max(_targets(train)))
    class_names = tuple(str(label) for label in classes)
    native_size = min(train[0][0].size)

    def load(image_size: int, seed: int, max_train: int) -> Dataset:
        def part(dataset: Any) -> Part:
            def images(chosen: NDArray[np.intp]) -> Images:
                return np.stack([_square(dataset[int(i)][0], image_size) for i in chosen])

            return Part(np.array(_targets(dataset), np.int64), images)

        return make_dataset(name, part(train), part(test), class_names, seed=seed, max_train=max_train)

    return Source(name, native_size, load)


def _torchvision_part(name: str, kind: Any, training: bool) -> Any:
    parameters = inspect.signature(kind).parameters
    which: dict[str, Any] = {"train": training} if "train" in parameters else {"split": "train" if training else "test"}
    if not set(which) <= set(parameters):
        raise DataError(f"torchvision:{name} has no train and test part; export it to class folders or an npz file.")
    root = user_cache_path("hybridnas") / "torchvision"
    try:
        return kind(str(root), download=True, **which) if "download" in parameters else kind(str(root), **which)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"torchvision:{name} is not in {root} and could not be downloaded: {reason}.") from None


def _targets(dataset: Any) -> list[int]:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    return [int(dataset[i][1]) for i in range(len(dataset))]
