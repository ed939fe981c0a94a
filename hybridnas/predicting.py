"""Classifying image files with what was exported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from rich.text import Text
from torch import Tensor

from hybridnas.errors import ConfigError, DataError, RunError, first_clause
from hybridnas.export.formats import FORMATS
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.starting import BEST, DESIGN, WEIGHTS
from hybridnas.study.run import load_network

#: From an input (1, 3, H, W) to scores (1, classes).
Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """The classes of one image, the likeliest first, each with its probability 0..1."""

    path: Path
    classes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Predictor:
    """An exported network, ready to classify. Make one with `Predictor.open`."""

    file: Path
    preprocessing: Preprocessing
    forward: Forward

    @classmethod
    def open(cls, bundle: Path, kind: str | None = None) -> Predictor:
        """Open what lies in a folder.

        Args:
            bundle: A bundle, or a run folder or training, for its best/.
            kind: A key of `OPEN`; None is the first whose file is there.

        Raises:
            RunError: the folder is no bundle, is damaged, or lacks the format.
            ConfigError: no such format, or its extra is not installed.
        """
        if kind is not None and kind not in OPEN:
            raise ConfigError(f"--format must be one of {', '.join(OPEN)}, got {kind!r}.")
        folder = bundle / BEST if (bundle / BEST).is_dir() else bundle
        if not folder.is_dir():
            raise RunError(f"{bundle} is no folder: give what hybridnas export wrote, or a run folder.")
        preprocessing = Preprocessing.read(folder)
        there = [name for name, (file, _, _) in OPEN.items() if (folder / file).is_file()]
        if not there:
            raise RunError(f"{folder} holds no network: none of {', '.join(file for file, _, _ in OPEN.values())}.")
        kind = kind or there[0]
        if kind not in there:
            raise RunError(f"{folder} has no {OPEN[kind][0]}; it has --format {', '.join(there)}.")
        file, package, opener = OPEN[kind]
        if package and find_spec(package) is None:
            raise ConfigError(f"{file} needs {package}: pip install 'hybridnas[{FORMATS[kind].extra}]'.")
        return cls(folder / file, preprocessing, opener(folder / file, preprocessing))

    def classify(self, path: Path, top: int) -> Prediction:
        """The `top` likeliest classes of an image file.

        Raises:
            DataError: it cannot be read as an image.
            RunError: the network does not fit what lies beside it.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    given = self.preprocessing.input_of(image)
        except Exception as error:  # as in data.loading
            reason = getattr(error, "strerror", None) or first_clause(error).replace(f" {str(path)!r}", "")
            raise DataError(f"{path} cannot be read as an image: {reason}.") from None
        names = self.preprocessing.class_names
        scores = self.forward(given)
        if scores.shape != (1, len(names)):
            raise RunError(
                f"{self.file} gives scores of shape {tuple(scores.shape)}, and there are {len(names)} labels."
            )
        found = scores[0].float().softmax(dim=0).topk(min(top, len(names)))
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return Prediction(path, tuple((names[i], probability) for i, probability in pairs))


def _open_weights(file: Path, preprocessing: Preprocessing) -> Forward:
    model = load_network(file.parent, len(preprocessing.class_names))
    if model.architecture.image_size != preprocessing.image_size:
        raise RunError(
            f"{file.parent} is damaged: {DESIGN} is for {model.architecture.image_size} px, the images are to have "
            f"{preprocessing.image_size}."
        )
    deployed = model.deploy()

    def forward(images: Tensor) -> Tensor:
        with torch.inference_mode():
            scores: Tensor = deployed(images)
            return scores

    return forward


def _open_onnx(file: Path, preprocessing: Preprocessing) -> Forward:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
    except Exception as error:  # of ONNX Runtime's own kinds
        raise RunError(f"{file} cannot be opened: {first_clause(error)}.") from None
    # What a search timed is for batches of one size, and perhaps in 16 bits.
    dtype = np.float16 if "float16" in given.type else np.float32
    count = given.shape[0] if isinstance(given.shape[0], int) else 1
    return _of_numpy(file, lambda images: session.run(None, {given.name: images.astype(dtype)})[0], count)


def _open_openvino(file: Path, preprocessing: Preprocessing) -> Forward:
    import openvino

    try:
        compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # of OpenVINO's own kinds
        raise RunError(f"{file} cannot be opened: {first_clause(error)}.") from None
    return _of_numpy(file, lambda images: compiled([images])[0], 1)


def _of_numpy(file: Path, run: Callable[[NDArray[Any]], NDArray[Any]], count: int) -> Forward:
    def forward(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(run(images.expand(count, -1, -1, -1).numpy())[:1].astype(np.float32))
        except Exception as error:  # a file for other images
            raise RunError(f"{file} does not take these images: {first_clause(error)}.") from None

    return forward


#: The file of each format, the package that opens it, and how. What runs code of its own is not among them.
OPEN: dict[str, tuple[str, str, Callable[[Path, Preprocessing], Forward]]] = {
    "bundle": (WEIGHTS, "", _open_weights),
    "onnx": ("model.onnx", "onnxruntime", _open_onnx),
    "openvino": ("model.xml", "openvino", _open_openvino),
}


def table(predictor: Predictor, predictions: list[Prediction]) -> Table:
    """A row an image: its classes and their probabilities."""
    found = Table(title=Text(f"by {predictor.file}", "table.title"), title_justify="left")
    found.add_column("image", overflow="fold")
    for place in range(max(len(each.classes) for each in predictions)):
        found.add_column("class" if place == 0 else f"or {place + 1}", overflow="fold")
        found.add_column("", justify="right")
    for each in predictions:
        cells = [text for name, probability in each.classes for text in (Text(name), Text(f"{probability:.1%}"))]
        found.add_row(Text(str(each.path)), *cells)
    return found
