"""Reading an exported file back in a process of its own: run by path, it imports nothing of this package.

    python -P reload.py FORMAT FILE IMAGES.npy SCORES.npy THREADS

IMAGES.npy holds inputs (N, 3, H, W). SCORES.npy gets (forms, 1 + N, classes): the first image alone, then all, for each
form that the file gives. A line of JSON says the milliseconds of one image, and whether the package was imported.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Images a pass where all are shown; it need not divide them.
BATCH = 48
WARM_S, TIMED_S, LEAST_PASSES = 0.3, 1.5, 21

#: From images (B, 3, H, W) to scores (B, classes), NumPy both.
Forward = Callable[[Any], Any]


def open_bundle(file: Path, threads: int) -> list[Forward]:
    """The module of a model.py, as it was trained and in the deploy form."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("model", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [_of_torch(module.model, threads), _of_torch(module.model.deploy(), threads)]


def open_program(file: Path, threads: int) -> list[Forward]:
    """What torch.export saved."""
    import torch

    return [_of_torch(torch.export.load(file).module(), threads)]


def open_torchscript(file: Path, threads: int) -> list[Forward]:
    """What torch.jit saved."""
    import torch

    return [_of_torch(torch.jit.load(file), threads)]


def _of_torch(network: Any, threads: int) -> Forward:
    import torch

    torch.set_num_threads(threads)

    def forward(images: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return forward


def open_onnx(file: Path, threads: int) -> list[Forward]:
    """An ONNX file in ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    return [lambda images: session.run(None, {name: images})[0]]


def open_openvino(file: Path, threads: int) -> list[Forward]:
    """OpenVINO's pair of files, on the CPU in 32 bits."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    return [lambda images: compiled([images])[0]]


OPEN: dict[str, Callable[[Path, int], list[Forward]]] = {
    "bundle": open_bundle,
    "torch-export": open_program,
    "torchscript": open_torchscript,
    "onnx": open_onnx,
    "openvino": open_openvino,
}


def time_passes(run: Callable[[], object]) -> list[float]:
    """Milliseconds of passes in a row, after some that are not counted."""

    def passes(seconds: float, least: int) -> list[float]:
        found: list[float] = []
        end = time.perf_counter() + seconds
        while len(found) < least or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            found.append((time.perf_counter() - start) * 1e3)
        return found

    passes(WARM_S, 3)
    return passes(TIMED_S, LEAST_PASSES)


def main() -> None:
    """Do what the arguments say."""
    import numpy

    kind, file, images_file, scores_file, threads = sys.argv[1:]
    images = numpy.load(images_file)
    forms = OPEN[kind](Path(file), int(threads))
    batches = [images[:1], *(images[start : start + BATCH] for start in range(0, len(images), BATCH))]
    numpy.save(scores_file, numpy.stack([numpy.concatenate([form(batch) for batch in batches]) for form in forms]))
    passes = time_passes(lambda: forms[-1](images[:1]))
    p95 = statistics.quantiles(passes, n=20, method="inclusive")[-1]
    answer = {"p50": statistics.median(passes), "p95": p95, "alone": "hybridnas" not in sys.modules}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
