"""What a program times: how it is called, what of its output counts, and what its failures mean."""

import json
import os
import select
import signal
import sys
import tempfile
from pathlib import Path

import onnx
import pytest
from torch import nn

from hybridnas.cost import command
from hybridnas.cost.command import CommandTarget
from hybridnas.cost.latency import Timer
from hybridnas.cost.runtimes import Input, Setting, to_onnx
from hybridnas.cost.targets import open_target
from hybridnas.errors import CannotRun, ConfigError, TargetError

SETTING = Setting("onnxruntime", threads=3)
SMALL = nn.Conv2d(3, 4, 1)
GIVEN = Input((1, 3, 4, 4))


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """Exporting takes a second each time, and no program here reads what is in a file; and no patience."""
    monkeypatch.setattr(command, "to_onnx", lambda network, shape, precision: b"onnx")
    monkeypatch.setattr(command, "WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where locks are left


@pytest.fixture
def _real_files(monkeypatch, _quick):
    monkeypatch.setattr(command, "to_onnx", to_onnx)
    monkeypatch.setattr(command, "reference", lambda name: (nn.Conv2d(3, 2, 1), Input((1, 3, 2, 2))))


@pytest.fixture
def program(tmp_path):
    """A function that makes a template of a Python program, which has `name` ('reference' or 'network-0'), `here`
    (a folder), `log` (a function) and `num(name)`, how often that was logged; it logs each call's name first.
    """

    def make(body, arguments="{model}"):
        script = tmp_path / "program.py"
        script.write_text(
            "import pathlib, sys, json, time, os\n"
            "here = pathlib.Path(__file__).parent\n"
            "name = pathlib.Path(sys.argv[1]).stem\n"
            "def log(text):\n"
            "    with open(here / 'log', 'a') as file: file.write(text + '\\n')\n"
            "def num(text): return (here / 'log').read_text().split('\\n').count(text)\n"
            "log(name)\n" + body
        )
        return f"{sys.executable} -S {script} {arguments}"

    make.log = lambda: (tmp_path / "log").read_text().split()
    return make


def printing(text):
    return f"sys.stdout.write({text!r})"


def time_small(target):
    return target.take_turns([target.open(SMALL, GIVEN)], seconds=0.0, min_turns=15)[0]


def test_networks_lie_in_a_folder_that_is_their_owners_alone(program):
    before = os.umask(0)
    try:
        folder = "pathlib.Path(sys.argv[1]).parent"
        CommandTarget(program(f"log(oct({folder}.stat().st_mode & 0o777))\n" + printing("1")), SETTING)
    finally:
        os.umask(before)
    assert program.log() == ["reference", "0o700"]


@pytest.mark.parametrize(
    ("printed", "samples"),
    [
        ("12.5", [12.5]),
        ("12", [12.0]),
        ("  1e-3 \n\n", [0.001]),
        ("loading ...\n7.25\n", [7.25]),
        ('{"latency_ms": 3}', [3.0]),
        ('{\n "latency_ms": 3.5,\n "device": "npu"\n}\n', [3.5]),
        ('warm\n{"samples": [1, 2.5, 3]}\n', [1.0, 2.5, 3.0]),
        ('{"samples": [1, 2], "latency_ms": 9}', [1.0, 2.0]),
        ("1\n2\n", [2.0]),
    ],
)
def test_what_counts_as_milliseconds(printed, samples):
    assert command._read(printed) == samples


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "\n",
        "0",
        "-1.5",
        "NaN",
        "Infinity",
        "1e999",
        "1" * 400,
        "12 ms",
        "true",
        "null",
        '"3"',
        "[1, 2]",
        "{}",
        '{"latency_ms": "3"}',
        '{"latency_ms": null}',
        '{"samples": []}',
        '{"samples": [1, 0]}',
        '{"samples": 3}}',
        '{"fps": 30}',
        "3.5\ndone",
    ],
)
def test_what_does_not(printed):
    assert command._read(printed) is None


@pytest.mark.parametrize("text", ["12.5", '{"latency_ms": 12.5}', '{"samples": [12.5, 12.5]}'])
def test_a_timer_reports_what_the_program_prints(program, text):
    timer = Timer(f"command:{program(printing(text))}", runtime="onnxruntime")
    assert timer.reference_ms == 12.5
    latency = timer.measure(SMALL, 4, seconds=0.0)
    assert latency.p50 == latency.raw_p50 == latency.low == 12.5
    assert latency.num_samples == 3 * (2 if "samples" in text else 1)


def test_figures_are_ratios_to_the_reference(program):
    """The machine is twice as slow each time that it is asked for the reference; the network is three references."""
    template = program("slow = 2.0 ** num('reference')\nprint(slow if name == 'reference' else 3 * slow * 1.5)")
    target = CommandTarget(template, SETTING)
    assert [sum(own) / reference for reference, own in time_small(target)] == pytest.approx([3.0] * 3)


def test_reference_and_networks_take_turns(program):
    template = program(printing("1"))
    target = CommandTarget(template, SETTING)
    opened = [target.open(SMALL, GIVEN), target.open(SMALL, GIVEN)]
    assert program.log() == ["reference", "network-0", "network-1"]
    turns = target.take_turns(opened, seconds=0.0, min_turns=15)
    assert [len(mine) for mine in turns] == [3, 3]
    assert program.log()[3:] == ["reference"] + ["network-0", "network-1", "reference"] * 3


def test_fewer_turns_where_fewer_are_asked_for(program):
    target = CommandTarget(program(printing("1")), SETTING)
    assert len(target.take_turns([target.open(SMALL, GIVEN)], seconds=0.0, min_turns=2)[0]) == 2


def test_more_turns_while_the_interval_is_wide_and_time_is_left(program):
    template = program("print(1 if name == 'reference' else 1 + num(name) % 2)")
    target = CommandTarget(template, SETTING)
    assert len(target.take_turns([target.open(SMALL, GIVEN)], seconds=1.0, min_turns=15)[0]) > 3


@pytest.mark.usefixtures("_real_files")
def test_the_files_are_onnx_of_the_shape_and_go_when_they_were_timed(program, tmp_path):
    copy = "import shutil; shutil.copy(sys.argv[1], here / (name + '.onnx')); log(sys.argv[1]); print(1)"
    target = CommandTarget(program(copy), SETTING)
    time_small(target)
    folder = Path(program.log()[1]).parent
    assert [path.name for path in folder.iterdir()] == ["reference.onnx"]
    for name, shape in (("reference", [1, 3, 2, 2]), ("network-0", [1, 3, 4, 4])):
        given = onnx.load(tmp_path / f"{name}.onnx").graph.input[0].type.tensor_type.shape.dim
        assert [size.dim_value for size in given] == shape
    del target
    assert not folder.exists()


@pytest.mark.usefixtures("_real_files")
def test_the_reference_is_of_the_precision_that_is_asked_for(program, tmp_path):
    copy = "import shutil; shutil.copy(sys.argv[1], here / 'got.onnx'); print(1)"
    CommandTarget(program(copy), Setting("onnxruntime", "fp16"))
    kind = onnx.load(tmp_path / "got.onnx").graph.input[0].type.tensor_type.elem_type
    assert kind == onnx.TensorProto.FLOAT16


def test_a_users_own_file_is_handed_over_and_kept(program, tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"")
    latency = Timer(f"command:{program(printing('2'))}", runtime="onnxruntime").measure(path, 4, seconds=0.0)
    assert latency.p50 == 2
    assert path.exists()
    assert "mine" in program.log()


def test_placeholders_and_quotes(program):
    template = program(
        "log(json.dumps(sys.argv[2:]).replace(' ', '_')); print(1)",
        "{model} --t={threads} 'a b' {batch}x{batch} ${HOME} '{print $1}' {}",
    )
    CommandTarget(template, Setting("onnxruntime", batch_size=5, threads=3))
    expected = ["--t=3", "a b", "5x5", "${HOME}", "{print $1}", "{}"]
    assert program.log()[1] == json.dumps(expected).replace(" ", "_")


def test_pipes_go_through_sh():
    assert CommandTarget("sh -c 'wc -c < {model} | tr 4 5'", SETTING).reference_ms() == 5


def test_it_is_a_target(program):
    target = open_target(f"command:{program(printing('1'))}", SETTING)
    assert isinstance(target, CommandTarget)
    assert target.environment() == {"command": target.template}


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("", "must have {model}"),
        ("echo 3", "must have {model}"),
        ("echo ${model}", "must have {model}"),
        ("echo {model} {size}", "{size}, which stands for nothing; placeholders are {model}, {threads}, {batch}"),
        ("echo '{model}", "No closing quotation"),
        ("no-such-program-here {model}", "no program 'no-such-program-here'"),
        ("/no/such/program {model}", "no program '/no/such/program'"),
    ],
)
def test_a_bad_template_is_a_config_error(template, says):
    with pytest.raises(ConfigError) as caught:
        open_target(f"command:{template}", SETTING)
    assert says in str(caught.value)
    assert repr(template) in str(caught.value)


@pytest.mark.parametrize("runtime", ["torch", "compile", "openvino"])
def test_another_runtime_is_a_config_error(runtime):
    with pytest.raises(ConfigError, match=f"needs --runtime onnxruntime, got {runtime}"):
        CommandTarget("cat {model}", Setting(runtime))


@pytest.mark.parametrize("printed", ["", "oops " * 40, "NaN", "-3", '{"fps": 30}'])
def test_nonsense_is_quoted(program, printed):
    with pytest.raises(TargetError) as caught:
        CommandTarget(program(printing(printed)), SETTING)
    assert f"printed {printed.strip()[:80]!r}; its last line must be a number of milliseconds" in str(caught.value)
    assert "latency_ms" in str(caught.value) and "samples" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("sys.exit('no such device')", "with code 1: no such device"),
        ("print('to stdout'); sys.exit(4)", "with code 4: to stdout"),
        ("sys.exit(7)", "with code 7."),
        ("os.kill(os.getpid(), 9)", "by signal 9."),
    ],
)
def test_failing_with_the_reference_is_a_target_error(program, body, says):
    with pytest.raises(TargetError) as caught:
        CommandTarget(program(body), SETTING)
    assert "fails with the reference network" in str(caught.value)
    assert says in str(caught.value)
    assert program.log() == ["reference"]


def test_a_program_that_cannot_be_started_is_a_target_error(tmp_path):
    script = tmp_path / "script"
    script.write_text("no interpreter is named here\n")
    script.chmod(0o755)
    with pytest.raises(TargetError, match="Exec format error"):
        CommandTarget(f"{script} {{model}}", SETTING)


def test_failing_with_a_network_alone_is_the_networks_fault(program):
    body = "if name != 'reference': sys.exit('first line\\nno kernel for Conv. Sorry')\nprint(1)"
    target = CommandTarget(program(body), SETTING)
    with pytest.raises(CannotRun, match="with code 1: no kernel for Conv$"):
        target.open(SMALL, GIVEN)
    assert program.log() == ["reference", "network-0", "reference"]


def test_a_device_that_comes_back_goes_on(program):
    """The second call for the network and the one for the reference after it fail; then all is well."""
    body = (
        "if name == 'network-0' and num(name) == 2: log('down'); sys.exit('gone')\n"
        "if name == 'reference' and num('down') == 1: log('down'); sys.exit('gone')\n"
        "print(1)"
    )
    target = CommandTarget(program(body), SETTING)
    assert len(time_small(target)) == 3
    assert program.log().count("network-0") == 1 + 3 + 1


def test_a_network_that_takes_the_device_down_again_and_again_is_at_fault(program):
    body = (
        "if name != 'reference': log('down'); sys.exit('gone')\n"
        "if num('down') > num('up'): log('up'); sys.exit('still booting')\n"
        "print(1)"
    )
    target = CommandTarget(program(body), SETTING)
    with pytest.raises(CannotRun, match="gone"):
        target.open(SMALL, GIVEN)
    assert program.log().count("network-0") == command.MAX_FAILURES


def test_a_device_that_stays_away_is_a_target_error(program):
    template = program("if num('reference') > 1: sys.exit('device offline')\nprint(1)")
    target = CommandTarget(template, SETTING)
    with pytest.raises(TargetError) as caught:
        target.reference_ms()
    assert str(caught.value) == (
        f"The target command:{template} stopped answering: it ended with code 1: device offline; what finished is "
        "kept, go on with --resume when it is back."
    )
    assert program.log().count("reference") == 1 + 1 + len(command.WAITS_S)


def test_a_program_that_hangs_is_ended_with_all_it_started(program, monkeypatch, tmp_path):
    """What it started holds a pipe open, whose end is told when the last of them is gone."""
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    body = (
        "if name != 'reference':\n"
        "    import subprocess\n"
        "    held = os.open(here / 'pipe', os.O_WRONLY)\n"
        "    subprocess.Popen(['sleep', '60'], pass_fds=[held])\n"
        "    os.write(held, b'started')\n"
        "    time.sleep(60)\n"
        "print(1)"
    )
    try:
        target = CommandTarget(program(body), SETTING)
        monkeypatch.setattr(command, "TIMEOUT_S", 3.0)
        with pytest.raises(CannotRun, match=r"did not end within 3 s"):
            target.open(SMALL, GIVEN)
        assert os.read(end, 7) == b"started"
        assert select.select([end], [], [], 10)[0]
        assert os.read(end, 1) == b""
    finally:
        os.close(end)


def test_a_daemon_that_is_left_behind_holds_nothing_up(program, monkeypatch):
    monkeypatch.setattr(command, "TIMEOUT_S", 50.0)
    leave = "import subprocess\nif num('reference') == 1: log(str(subprocess.Popen(['sleep', '100']).pid))\n"
    CommandTarget(program(leave + "print(1)"), SETTING)  # which would be a TargetError if the call had waited
    os.kill(int(program.log()[1]), signal.SIGKILL)
