"""What a network takes and what its scores mean: the size and colours of its images, and the names of its classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from torch import Tensor

from hybridnas.data.loading import square
from hybridnas.errors import RunError, first_clause
from hybridnas.files import write_atomic

LABELS, FILE = "labels.json", "preprocessing.json"


class _File(BaseModel):
    """preprocessing.json; mean and std are of each channel in 0..255, of one channel where images are grey."""

    image_size: Annotated[int, Field(ge=1, le=1 << 14)]
    mean: Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1, max_length=3)]
    std: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1, max_length=3)]
    interpolation: Literal["bilinear"] = "bilinear"
    antialias: Literal[True] = True
    resize: Literal["shorter side"] = "shorter side"
    crop: Literal["center"] = "center"


_LABELS = TypeAdapter(Annotated[tuple[str, ...], Field(min_length=1)])


@dataclass(frozen=True)
class Preprocessing:
    """From an image to a network's input, and from its scores to words.

    Attributes:
        image_size: Pixels a side: the shorter side is scaled to it, bilinear and antialiased, the longer one cropped.
        mean: Of each channel, in 0..255: three, or one for a network that was trained on grey images.
        std: Of each channel, in 0..255.
        class_names: What the scores stand for, in order.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, image_size: int, mean: Sequence[float], std: Sequence[float], names: Sequence[str]) -> Preprocessing:
        """With figures as they are written, in thousandths, and names that any file can hold.

        The name of a folder need not be text.
        """
        rounded = [tuple(round(float(value), 3) for value in values) for values in (mean, std)]
        return cls(image_size, rounded[0], rounded[1], plain(names))

    @classmethod
    def read(cls, folder: Path) -> Preprocessing:
        """What `write` left in a folder.

        Raises:
            RunError: a file is not there, or damaged.
        """
        for name in (LABELS, FILE):
            if not (folder / name).is_file():
                raise RunError(f"{folder} has no {name}: it is no bundle, or of an older version; export it again.")
        try:
            names = _LABELS.validate_json((folder / LABELS).read_bytes(), strict=True)
            file = _File.model_validate_json((folder / FILE).read_bytes())
            if len(file.mean) != len(file.std):
                raise ValueError("mean and std are of as many channels")
        except (OSError, ValidationError, ValueError) as error:
            raise RunError(f"{folder} is damaged: {first_clause(error)}.") from None
        return cls(file.image_size, file.mean, file.std, names)

    def write(self, folder: Path) -> None:
        """Leave labels.json and preprocessing.json."""
        write_atomic(folder / LABELS, json.dumps(self.class_names, indent=2))
        fields = {name: value for name, value in asdict(self).items() if name != "class_names"}
        write_atomic(folder / FILE, _File(**fields).model_dump_json(indent=2))

    def input_of(self, image: Image.Image) -> Tensor:
        """An image as a network's input (1, 3, image_size, image_size)."""
        return self.normal(torch.from_numpy(pixels(image, self.image_size, grey=len(self.mean) == 1))[None])

    def normal(self, images: Tensor) -> Tensor:
        """uint8 (B, 1 or 3, H, W) to a network's input (B, 3, H, W)."""
        mean, std = (torch.tensor(figures).view(1, -1, 1, 1) for figures in (self.mean, self.std))
        return ((images.float() - mean) / std).expand(-1, 3, -1, -1).contiguous()


def plain(names: Sequence[str]) -> tuple[str, ...]:
    """Names that any file can hold."""
    return tuple(name.encode("utf-8", "backslashreplace").decode() for name in names)


def pixels(image: Image.Image, size: int, *, grey: bool) -> NDArray[np.uint8]:
    """An image as (3, size, size); `grey` gives all channels its brightness."""
    found = square(image, size)
    if grey:
        brightness = Image.fromarray(found.transpose(1, 2, 0)).convert("L")
        found = np.broadcast_to(np.asarray(brightness), found.shape)
    return found.copy()
