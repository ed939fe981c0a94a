"""`best/`: the winner as files that load back in a few lines and run no code of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from hybridnas.errors import HybridNasError
from hybridnas.files import write_atomic
from hybridnas.model import HybridNet, image_batch
from hybridnas.study.run import load_network

TOLERANCE = 1e-4

SNIPPET = '''"""The network that the search chose. `model` is ready to classify; `preprocess` prepares images for it."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from hybridnas import Architecture, build

HERE = Path(__file__).parent
IMAGE_SIZE = {image_size}
CLASS_NAMES = {class_names}
MEAN = {mean}  # of each channel, in 0..255
STD = {std}

model = build(Architecture.from_json((HERE / "architecture.json").read_text()), num_classes={num_classes})
model.load_state_dict(load_file(HERE / "weights.safetensors"))
model.eval()  # model.deploy() is the fused form that was timed


def preprocess(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, {image_size}, {image_size}) to what the network was trained on."""
    return (images.float() - torch.tensor(MEAN).view(1, -1, 1, 1)) / torch.tensor(STD).view(1, -1, 1, 1)
'''


def export_bundle(
    model: HybridNet, folder: Path, *, class_names: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> None:
    """Write a model on the CPU as architecture.json, weights.safetensors and model.py, then read back and compare.

    Raises:
        HybridNasError: what was read back disagrees with `model`; the weights file is removed.
    """
    architecture = model.architecture
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomic(folder / "architecture.json", architecture.to_json())
    about = {name: json.dumps([round(float(v), 3) for v in values]) for name, values in (("mean", mean), ("std", std))}
    write_atomic(folder / "weights.safetensors", lambda path: save_file(weights, path, about))
    snippet = SNIPPET.format(
        image_size=architecture.image_size,
        # JSON quotes as Python does and escapes what is not ASCII: a class name cannot become code.
        class_names=json.dumps(list(class_names)),
        mean=[round(float(value), 3) for value in mean],
        std=[round(float(value), 3) for value in std],
        num_classes=model.num_classes,
    )
    write_atomic(folder / "model.py", snippet)
    _check(model, folder)


def _check(model: HybridNet, folder: Path) -> None:
    again = load_network(folder, model.num_classes)
    images = image_batch(4, model.architecture.image_size)
    with torch.inference_mode():
        expected = model.eval()(images)
        for form, network in (("the file read back", again), ("its deploy form", again.deploy())):
            error = float((network(images) - expected).abs().max())
            if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):
                (folder / "weights.safetensors").unlink()
                raise HybridNasError(f"{form} differs from the trained network by {error:.2g}: nothing was exported.")
