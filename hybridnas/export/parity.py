"""Whether an exported file does what was trained: read back in a process of its own, on real images, and timed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hybridnas.errors import first_clause
from hybridnas.export import reload
from hybridnas.export.bundle import TOLERANCE, difference
from hybridnas.export.formats import FORMATS


@dataclass(frozen=True)
class Parity:
    """What became of one exported format.

    Attributes:
        format: A key of `FORMATS`.
        file: The one that is opened.
        megabytes: Of all its files.
        difference: The largest of scores, over the largest score where that is over one; of the bundle, the larger of
            the trained form's and the deploy form's.
        agreement: The share of images that get the same class, 0..1.
        latency_ms_p50: Of one image, a plain median: this machine, this moment; None where it did not run.
        latency_ms_p95: The 95th percentile.
        problem: Why the file was deleted; empty where it agrees.
    """

    format: str
    file: str
    megabytes: float
    difference: float | None = None
    agreement: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    problem: str = ""

    def figures(self) -> tuple[str, ...]:
        """Size, difference, agreement and the two latencies, as they are printed."""
        values = (self.difference, self.agreement, self.latency_ms_p50, self.latency_ms_p95)
        forms = ("{:.1e}", "{:.1%}", "{:.2f}", "{:.2f}")
        said = ("-" if value is None else form.format(value) for form, value in zip(forms, values, strict=True))
        return (f"{self.megabytes:.2f}", *said)


def check_file(kind: str, folder: Path, images: Tensor, expected: Tensor, threads: int) -> Parity:
    """Read a format back and compare it; what disagrees is deleted.

    Args:
        kind: A key of `FORMATS`.
        folder: Where its files lie.
        images: (N, 3, H, W), normalised.
        expected: Scores (N, classes) of the network as it was trained.
        threads: Of the CPU.
    """
    file = FORMATS[kind].files[0]
    megabytes = FORMATS[kind].size(folder) / 1e6
    with tempfile.TemporaryDirectory() as between:
        given, found = Path(between) / "images.npy", Path(between) / "scores.npy"
        np.save(given, images.numpy())
        command = [sys.executable, "-P", str(reload.__file__), kind, str(folder / file), str(given), str(found)]
        done = subprocess.run([*command, str(threads)], capture_output=True, text=True)
        if done.returncode:
            FORMATS[kind].remove(folder)
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            return Parity(kind, file, megabytes, problem=f"cannot be read back: {last}")
        answer = json.loads(done.stdout.splitlines()[-1])
        scores = torch.from_numpy(np.load(found))
    wanted = torch.cat((expected[:1], expected)).expand_as(scores)
    error = difference(scores, wanted)
    agreement = float((scores.argmax(-1) == wanted.argmax(-1))[:, 1:].float().mean())
    problem = ""
    if not error <= TOLERANCE:
        problem = f"its scores differ by {error:.2g}"
    elif not answer["alone"]:
        problem = "it imports hybridnas"
    if problem:
        FORMATS[kind].remove(folder)
    return Parity(kind, file, megabytes, error, agreement, answer["p50"], answer["p95"], problem)


def not_written(kind: str, error: Exception) -> Parity:
    """Of a format that the network does not have."""
    return Parity(kind, FORMATS[kind].files[0], 0.0, problem=first_clause(error))
