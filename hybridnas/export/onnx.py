"""The winner as an ONNX file, for the runtimes that take one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from hybridnas.cost.runtimes import Input, Setting, to_onnx
from hybridnas.errors import CannotRun
from hybridnas.export.bundle import TOLERANCE, difference
from hybridnas.files import write_atomic
from hybridnas.model import HybridNet, image_batch

FILE = "model.onnx"


def export_onnx(model: HybridNet, folder: Path, setting: Setting) -> None:
    """Write the deploy form as `model.onnx` for batches of the setting's size, and compare it with torch.

    What is compared is an fp32 file, where onnxruntime is installed: fewer bits give other scores by design.

    Raises:
        CannotRun: the network has no ONNX form, or the file's scores are not torch's; it is removed.
    """
    size = model.architecture.image_size
    shape = (setting.batch_size, 3, size, size)
    file = to_onnx(model.deploy(), Input(shape), setting.file_precision)
    write_atomic(folder / FILE, file)
    if setting.file_precision != "fp32" or find_spec("onnxruntime") is None:
        return
    import onnxruntime

    images = image_batch(setting.batch_size, size)
    with torch.inference_mode():
        expected = model.eval()(images)
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    error = difference(torch.from_numpy(found), expected)
    if not error <= TOLERANCE:
        (folder / FILE).unlink()
        raise CannotRun(f"{FILE} differs from the trained network by {error:.2g}")
