"""One step of training: eager, or on a GPU recorded once as a CUDA graph and replayed.

Small networks train as slowly as Python launches their kernels; a graph launches a whole step (experiments/cuda).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

#: Takes images (B, C, H, W) and labels (B), goes down the gradient and gives the loss, a scalar on the device.
Step = Callable[[Tensor, Tensor], Tensor]

#: Steps before the recording: they make the optimizer's state and choose kernels.
WARM_UP = 3


def make_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    dtype: torch.dtype | None,
    label_smoothing: float,
    clip_norm: float,
) -> Step:
    """The step of a short training, for batches of one shape; `dtype` is what autocast multiplies in, if anything."""
    device = next(model.parameters()).device

    def step(x: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(x), labels, label_smoothing=label_smoothing)
        descend(loss, model, optimizer, scaler, clip_norm)
        return loss.detach()

    # A scaler decides on the CPU whether a step is taken.
    return _Recorded(step, optimizer, device) if device.type == "cuda" and not scaler.is_enabled() else step


def descend(
    loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip_norm: float
) -> None:
    """One step of the optimizer down the gradient of `loss`, whose norm is clipped."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()


class _Recorded:
    """A step that is recorded after a few, and from then on replayed.

    A module that waits for the device, or moves something there, cannot be recorded: it is trained without, and a
    warning says so.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._step = step
        self._side = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._num_eager = 0
        self._can_record = True
        for group in optimizer.param_groups:  # a number would be the same in all replays
            group["capturable"] = True
            group["lr"] = torch.tensor(group["lr"], device=device)

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        if self._graph is None and self._can_record and self._num_eager >= WARM_UP:
            self._record(x, labels)
        if self._graph is None:
            self._num_eager += 1
            return self._aside(x, labels)
        self._x.copy_(x)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss

    def _aside(self, x: Tensor, labels: Tensor) -> Tensor:
        """In a stream of its own: what the first steps allocate must not be in the graph."""
        self._side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(self._side):
            loss = self._step(x, labels)
        torch.cuda.current_stream(x.device).wait_stream(self._side)
        return loss

    def _record(self, x: Tensor, labels: Tensor) -> None:
        self._x, self._labels = x.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(x.device), torch.cuda.graph(graph):
                self._loss = self._step(self._x, self._labels)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._can_record = False
            random = torch.cuda.default_generators[x.device.index or 0]
            random.graphsafe_set_state(random.clone_state())  # it would wait for the rest of the recording
            warnings.warn(f"Trained without a CUDA graph, which is slower: {str(error).splitlines()[0]}", stacklevel=2)
        else:
            self._graph = graph
