"""Data sets by name: torchvision's, and those of the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import inspect
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hybridnas.data.dataset import Dataset
from hybridnas.data.loading import Loading, Source, encoded_dataset
from hybridnas.errors import DataError, first_clause
from hybridnas.files import cache_folder

#: Images of the hub that are opened, at most, to see how large they are.
NUM_TRIED = 32


@dataclass(frozen=True)
class TorchvisionImages:
    """The images of a torchvision data set, as files would hold them."""

    name_of_all: str
    images: Any

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        """As torchvision numbers it."""
        return f"image {i} of {self.name_of_all}"

    def read(self, i: int, most: int = -1) -> bytes:
        """Upright and without compression."""
        file = io.BytesIO()
        try:
            ImageOps.exif_transpose(self.images[i][0]).save(file, "TIFF")
        except Exception as error:  # it is decoded here, and Pillow stumbles in any way
            raise OSError(first_clause(error)) from error
        return file.getvalue()[: most if most >= 0 else None]

    def sizes(self) -> Sequence[int] | None:
        """All alike where all are in memory; else each would have to be decoded."""
        return [0] * len(self) if hasattr(self.images, "data") else None


def torchvision_source(name: str) -> Source:
    """A class of `torchvision.datasets`, downloaded if its files are not in the cache folder.

    Raises:
        DataError: there is none of that name, it has no train and test part, or it cannot be downloaded.
    """
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, torchvision.datasets.VisionDataset)):
        near = [n for n in torchvision.datasets.__all__ if n.lower() == name.lower()]
        hint = f"; did you mean {near[0]}?" if near else "; see torchvision.datasets for the names."
        raise DataError(f"torchvision has no data set {name!r}{hint}")
    train, test = (_torchvision_part(name, kind, training) for training in (True, False))
    try:
        labelled = [(TorchvisionImages(name, part), np.array(_targets(part), np.int64)) for part in (train, test)]
        size = min(train[0][0].size)
    except (TypeError, ValueError, AttributeError) as error:
        reason = first_clause(error)
        raise DataError(f"torchvision:{name} is not of images with one class each: {reason}.") from None
    except (OSError, SyntaxError) as error:
        raise DataError(f"torchvision:{name} has an image that cannot be read: {first_clause(error)}.") from None
    classes = getattr(train, "classes", None) or range(1 + int(labelled[0][1].max()))
    class_names = tuple(str(label) for label in classes)
    return Source(name, size, lambda loading: encoded_dataset(name, labelled, class_names, loading))


def _torchvision_part(name: str, kind: Any, training: bool) -> Any:
    parameters = inspect.signature(kind).parameters
    which: dict[str, Any] = {"train": training} if "train" in parameters else {"split": "train" if training else "test"}
    if not set(which) <= set(parameters):
        raise DataError(f"torchvision:{name} has no train and test part; export it to class folders or an npz file.")
    root = cache_folder() / "torchvision"
    try:
        return kind(str(root), download=True, **which) if "download" in parameters else kind(str(root), **which)
    except TypeError as error:
        reason = first_clause(error)
        raise DataError(f"torchvision:{name} cannot be made without arguments of its own: {reason}.") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_clause(error)
        raise DataError(f"torchvision:{name} is not in {root} and could not be downloaded: {reason}.") from None


def _targets(dataset: Any) -> list[int]:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    return [int(dataset[i][1]) for i in range(len(dataset))]


@dataclass(frozen=True)
class HubImages:
    """One split of a data set of the hub, with the column of its images not decoded."""

    name_of_all: str
    rows: Any
    column: str

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        """As the hub's viewer numbers it."""
        return f"row {i} of {self.name_of_all}"

    def read(self, i: int, most: int = -1) -> bytes:
        """The bytes in the table, or of the file that it names."""
        cell = self.rows[i][self.column] or {}
        if cell.get("bytes"):
            return bytes(cell["bytes"])[: most if most >= 0 else None]
        if not cell.get("path"):
            raise OSError("the cell is empty")
        with open(cell["path"], "rb") as file:
            return file.read(most)

    def sizes(self) -> Sequence[int]:
        """As the table says; -1 where it names a file."""
        import pyarrow.compute as pc

        lengths = pc.binary_length(pc.struct_field(self.rows.data.column(self.column), "bytes")).to_pylist()
        return [-1 if length is None else length for length in lengths]


def hf_source(spec: str) -> Source:
    """`NAME` or `NAME:CONFIG` of the Hugging Face hub, or of a folder that `datasets.load_dataset` takes.

    The images are its first column of images, the labels its first column of classes; 'train' and, if there is one,
    'test' or 'validation' are the splits. No code of the hub is run.

    Raises:
        DataError: the package is missing, the name is unknown, or it has no images, classes or training split.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DataError("--data hf:NAME needs the package datasets: pip install 'hybridnas[hf]'.")
    import datasets

    name, _, config = spec.partition(":")
    try:
        with_splits = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub's client has errors of its own
        raise DataError(f"--data hf:{spec} cannot be loaded: {first_clause(error)}.") from None
    if "train" not in with_splits:
        raise DataError(f"--data hf:{spec} has no split 'train', but {', '.join(with_splits)}.")
    features = with_splits["train"].features
    image = next((key for key, feature in features.items() if isinstance(feature, datasets.Image)), None)
    label = next((key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)), None)
    if image is None or label is None:
        lacks = "images" if image is None else "class labels"
        raise DataError(f"--data hf:{spec} has no column of {lacks}; its columns are {', '.join(features)}.")
    encoded = with_splits.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    labels = {}
    for split in ("train", "test", "validation"):
        found = np.array(
            [-1 if each is None else each for each in with_splits[split][label]] if split in with_splits else []
        )
        if split == "train" or (len(found) and found.min() >= 0):  # the hub hides the labels of some tests
            labels[split] = found.astype(np.int64)
    splits = list(labels)[:2]

    def load(loading: Loading) -> Dataset:
        labelled = [(HubImages(name, encoded[split], image), labels[split]) for split in splits]
        return encoded_dataset(name.rstrip("/").rpartition("/")[2], labelled, tuple(features[label].names), loading)

    return Source(name, _side(HubImages(name, encoded["train"], image), spec), load)


def _side(images: HubImages, spec: str) -> int:
    """The shorter side of the first image that can be read; loading says which cannot."""
    problem = "it is empty"
    for i in range(min(NUM_TRIED, len(images))):
        try:
            return min(Image.open(io.BytesIO(images.read(i))).size)
        except Exception as error:  # as in loading
            problem = first_clause(error)
    raise DataError(f"The first images of --data hf:{spec} cannot be read: {problem}.")
