"""`best/`: the winner as files that load back in a few lines and run no code of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hybridnas.errors import HybridNasError
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.export.standalone import standalone
from hybridnas.files import write_atomic
from hybridnas.model import HybridNet, image_batch
from hybridnas.study.run import load_network

#: How far scores in 32 bits may lie from the trained form's, see `difference`.
TOLERANCE = 1e-4

ARCHITECTURE, WEIGHTS, MODEL = "architecture.json", "weights.safetensors", "model.py"


def export_bundle(model: HybridNet, folder: Path, preprocessing: Preprocessing) -> None:
    """Write a model on the CPU as description, weights and code, with what it takes; then read back and compare.

    Raises:
        HybridNasError: what was read back disagrees with `model`; the files are removed.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    about = {"mean": json.dumps(preprocessing.mean), "std": json.dumps(preprocessing.std)}
    write_atomic(folder / ARCHITECTURE, model.architecture.to_json())
    write_atomic(folder / WEIGHTS, lambda path: save_file(weights, path, about))
    code = standalone(model, preprocessing)
    write_atomic(folder / MODEL, code)
    _check(model, folder, code)
    preprocessing.write(folder)


def _check(model: HybridNet, folder: Path, code: str) -> None:
    again = load_network(folder, model.num_classes)
    alone: dict[str, Any] = {"__name__": "model", "__file__": str(folder / MODEL)}
    exec(compile(code, MODEL, "exec"), alone)  # what was written just now, not what a file says
    images = image_batch(4, model.architecture.image_size)
    forms = {"the file read back": again, "its deploy form": again.deploy(), MODEL: alone["model"]}
    with torch.inference_mode():
        expected = model.eval()(images)
        for form, network in forms.items():
            error = difference(network(images), expected)
            if not error <= TOLERANCE:
                for name in (ARCHITECTURE, WEIGHTS, MODEL):
                    (folder / name).unlink()
                raise HybridNasError(f"{form} differs from the trained network by {error:.2g}: nothing was exported.")


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of scores, over the largest score where that is over one."""
    return float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
