"""Timing by ratio, and opening a network's file in a runtime.

Machines drift by tens of percent within minutes. So a network takes turns with a fixed reference network, and what
counts is the ratio of the two.

An ssh target runs this very file at its end: it is sent there as text, so it imports the standard library alone until
a runtime is asked for, and nothing of this package ever.
"""

from __future__ import annotations

import io
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

MIN_TURNS = 15
MIN_PASSES = 21
#: Beyond the seconds that were asked for, whatever the least number of turns; three there are always.
MUCH_TOO_SLOW_S = 8.0
#: The interval of the median at which more turns are not worth their time.
NARROW = 0.02
#: Of what takes its turn, so many milliseconds are run first and not counted, so many counted, and passes at most.
#: Quick networks need it: right after another network a pass of 0.3 ms takes 3 times as long as the tenth in a row,
#: which is what somebody gets who classifies one image after another.
WARM_MS, TIMED_MS = 6.0, 8.0
MAX_REPEATS = 8
NUM_RESAMPLES = 200
LEVEL = 0.95
#: The machine's speed is the median of so many passes of the reference: under a second on a CPU.
CALIBRATION_PASSES = 50

Run = Callable[[], object]
#: The mean of the reference's milliseconds before and after, and those of the candidate's passes between them.
Turn = tuple[float, list[float]]


def clock(run: Run) -> float:
    """Milliseconds of one pass, by the wall."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def warm_up(run: Run, time_pass: Callable[[Run], float] = clock, *, seconds: float = 1.0) -> float:
    """Run until the latest passes are no faster than those before them, or `seconds` are over; the latest median."""
    end = time.perf_counter() + seconds
    passes = [time_pass(run)]
    if time.perf_counter() > end:  # so slow that nothing at its beginning matters
        return passes[0]
    passes += [time_pass(run) for _ in range(2)]
    while time.perf_counter() < end:
        passes += [time_pass(run) for _ in range(3)]
        if statistics.median(passes[-3:]) > 0.97 * statistics.median(passes[-6:-3]):
            break
    return statistics.median(passes[-3:])


def take_turns(
    candidates: Sequence[Run],
    reference: Run,
    *,
    seconds: float,
    time_pass: Callable[[Run], float] = clock,
    min_turns: int = MIN_TURNS,
) -> list[list[Turn]]:
    """Time all in turns until the intervals of the median ratios are narrow or `seconds` are over; one list each.

    Parts of a network that take turns with each other find the caches as they would inside it.
    """
    warm, repeats = passes_in_turn(sum(warm_up(candidate, time_pass) for candidate in candidates))
    warm_reference, reference_repeats = passes_in_turn(warm_up(reference, time_pass, seconds=0.2))

    def reference_ms() -> float:
        return statistics.median(_passes([reference], time_pass, warm_reference, reference_repeats)[0])

    turns: list[list[Turn]] = [[] for _ in candidates]
    start = time.perf_counter()
    check = num = 0
    before = reference_ms()
    while True:
        own = _passes(candidates, time_pass, warm, repeats)
        after = reference_ms()
        for mine, passes in zip(turns, own):  # noqa: B905 (Python 3.9 does not know strict)
            mine.append(((before + after) / 2, passes))
        before, num = after, num + 1
        took = time.perf_counter() - start
        if took > MUCH_TOO_SLOW_S + seconds and num >= 3:
            return turns
        if num < min_turns or num * repeats < MIN_PASSES:
            continue
        if took > seconds:
            return turns
        if num >= check:
            if all(is_narrow(mine) for mine in turns):
                return turns
            check = num * 5 // 4 + 1


def passes_in_turn(ms: float) -> tuple[int, int]:
    """How many passes of `ms` milliseconds are not counted when their turn comes, and how many are counted then."""
    ms = max(ms, WARM_MS / 100)
    return round(WARM_MS / ms), max(1, min(MAX_REPEATS, int(TIMED_MS / ms)))


def _passes(runs: Sequence[Run], time_pass: Callable[[Run], float], warm: int, repeats: int) -> list[list[float]]:
    """Milliseconds of `repeats` passes of each, all in turns, after `warm` that are not counted."""
    for _ in range(warm):
        for run in runs:
            time_pass(run)
    rounds = [[time_pass(run) for run in runs] for _ in range(repeats)]
    return [list(passes) for passes in zip(*rounds)]  # noqa: B905 (as above)


def is_narrow(turns: list[Turn]) -> bool:
    """Whether more turns are not worth their time."""
    low, middle, high = median_interval(ratios(turns))
    return high - low < NARROW * middle


def ratios(turns: list[Turn]) -> list[float]:
    """The candidate's median over the reference's time, one a turn."""
    return [statistics.median(own) / reference for reference, own in turns]


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Low end, median and high end of the median's 95 % bootstrap interval."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(NUM_RESAMPLES))
    cut = round(NUM_RESAMPLES * (1 - LEVEL) / 2)
    middle = statistics.median(values)
    return min(medians[cut], middle), middle, max(medians[-1 - cut], middle)


def open_onnxruntime(model: bytes, device: str, threads: int, precision: str) -> Run:
    """A pass of an ONNX file on noise; its precision is the file's own."""
    return _onnxruntime_pass(model, device, threads, "CUDAExecutionProvider" if device != "cpu" else "")


def open_tensorrt(model: bytes, device: str, threads: int, precision: str) -> Run:
    """A pass of an ONNX file through ONNX Runtime's TensorRT provider."""
    return _onnxruntime_pass(model, device, threads, "TensorrtExecutionProvider")


def _onnxruntime_pass(model: bytes, device: str, threads: int, provider: str) -> Run:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The reference is another session: threads that wait spinning for more of one would take the other's cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    number = int(device.partition(":")[2] or 0)
    providers: list[object] = ["CPUExecutionProvider"]
    if provider:
        if provider not in onnxruntime.get_available_providers():
            raise RuntimeError(
                f"this build of onnxruntime has no {provider}, only {onnxruntime.get_available_providers()}"
            )
        specific = {"trt_fp16_enable": True} if provider.startswith("Tensorrt") and _is_half(model) else {}
        providers = [(provider, {"device_id": number, **specific}), *providers]
    session = onnxruntime.InferenceSession(model, options, providers=providers)
    if provider and session.get_providers()[0] != provider:  # onnxruntime falls back by itself, and silently
        raise RuntimeError(f"{provider} did not load and onnxruntime fell back to {session.get_providers()[0]}")
    wanted = session.get_inputs()[0]
    kind = {"tensor(float)": "float32", "tensor(float16)": "float16"}[wanted.type]
    values = numpy.random.default_rng(0).standard_normal(wanted.shape).astype(kind)
    if provider:
        binding = session.io_binding()
        binding.bind_ortvalue_input(wanted.name, onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", number))
        binding.bind_output(session.get_outputs()[0].name, "cuda", number)

        def run_bound() -> object:
            session.run_with_iobinding(binding)
            return binding.synchronize_outputs()

        return run_bound
    feed = {wanted.name: values}
    return lambda: session.run(None, feed)


def _is_half(model: bytes) -> bool:
    import onnx

    wanted = onnx.load_from_string(model).graph.input[0].type.tensor_type.elem_type
    return bool(wanted == onnx.TensorProto.FLOAT16)


def open_openvino(model: bytes, device: str, threads: int, precision: str) -> Run:
    """A pass of an ONNX file by OpenVINO; the precision is what it computes in."""
    import numpy
    import openvino

    core = openvino.Core()
    kind = "CPU" if device == "cpu" else "GPU"
    if kind not in [name.partition(".")[0] for name in core.available_devices]:
        raise RuntimeError(f"openvino sees no {kind}, only {', '.join(core.available_devices)}")
    hint = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if precision.upper() not in core.get_property(kind, "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError(f"openvino does not compute in {precision} on this {kind}")
    if kind == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = core.compile_model(core.read_model(model), kind, settings)
    request = compiled.create_infer_request()
    shape = list(compiled.input(0).shape)
    values = numpy.random.default_rng(0).standard_normal(shape).astype(numpy.float32)
    return lambda: request.infer([values], share_inputs=True)


def open_torch(model: bytes, device: str, threads: int, precision: str) -> Run:
    """A pass of a program that `torch.export.save` wrote, with its example input."""
    import torch

    torch.set_num_threads(threads)
    program = torch.export.load(io.BytesIO(model))
    network = program.module()
    images = [tensor.to(device) for tensor in program.example_inputs[0]]
    network.to(device)

    def run() -> object:
        with torch.inference_mode():
            out = network(*images)
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
        return out

    return run


OPEN: dict[str, Callable[[bytes, str, int, str], Run]] = {
    "torch": open_torch,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "tensorrt": open_tensorrt,
}


def about_machine(packages: list[str]) -> dict[str, object]:
    """What figures depend on besides the network: processor, clock where it can be read, versions."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "clock_mhz": _cpu_field("cpu MHz"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_field(name: str) -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(name)), None)
    except OSError:
        return None


def serve() -> None:
    """Answer requests on standard input: a line of JSON, then as many bytes of a model as it says.

    `environment` tells of the machine, `open` makes a pass of the model ready under the name that it is given,
    `reference` times the pass of that name, `turns` lets passes take turns with it, `close` forgets all but it.
    Each answer is one line of JSON. What libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    opened: dict[str, Run] = {}
    while line := requests.readline():
        request = json.loads(line)
        model = requests.read(request.get("size", 0))
        try:
            answer = _answer(request, model, opened)
        except Exception as error:  # whatever it is, the other end can say it better
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(request: dict[str, Any], model: bytes, opened: dict[str, Run]) -> dict[str, object]:
    ask = request["ask"]
    if ask == "environment":
        return about_machine(request["packages"])
    if ask == "open":
        run = OPEN[request["runtime"]](model, request["device"], request["threads"], request["precision"])
        run()
        opened[request["name"]] = run
    elif ask == "reference":
        warm_up(opened["reference"])
        return {"ms": [clock(opened["reference"]) for _ in range(request["passes"])]}
    elif ask == "turns":
        runs = [opened[name] for name in request["names"]]
        turns = take_turns(runs, opened["reference"], seconds=request["seconds"], min_turns=request["min_turns"])
        return {"turns": turns}
    elif ask == "close":
        for name in [name for name in opened if name != "reference"]:
            del opened[name]
    return {}


if __name__ == "__main__":
    serve()
