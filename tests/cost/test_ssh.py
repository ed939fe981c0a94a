"""Timing over ssh, through a real server on this machine: what is sent, what is survived, what is said.

Where a runtime's own doings matter, it is onnxruntime or torch. Elsewhere it is a stand-in called openvino that opens
anything in no time and does as the file's bytes tell it.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from hybridnas import SearchConfig, run_search
from hybridnas.cost import ssh
from hybridnas.cost.connection import ssh_arguments
from hybridnas.cost.latency import Timer
from hybridnas.cost.runtimes import Input, Setting
from hybridnas.cost.ssh import SshTarget
from hybridnas.cost.targets import open_target
from hybridnas.errors import CannotRun, ConfigError, TargetError

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
SERVED = bool(SSHD and shutil.which("ssh") and shutil.which("ssh-keygen"))
needs_server = pytest.mark.skipif(not SERVED, reason="needs the OpenSSH client and server (sshd, ssh, ssh-keygen)")

STAND_IN = """
import os, pathlib, time
here = pathlib.Path(__file__).parent

def do(file):
    with open(here / "seen", "a") as log: log.write(file.decode() + "\\n")
    if file == b"bad": raise RuntimeError("no kernel for Conv. Sorry")
    if file == b"hang": time.sleep(20)
    if file == b"die" or file == b"die once" and not (here / "died").exists():
        (here / "died").touch()
        os.kill(os.getpid(), 9)

class Request:
    def __init__(self, file): self.file = file
    def infer(self, values, share_inputs):
        if self.file == b"slow": time.sleep(0.02)
        if self.file == b"die later":
            self.file = b"die once"
        elif self.file == b"die once": do(self.file)

class Compiled:
    def __init__(self, file): self.file = file
    def create_infer_request(self): return Request(self.file)
    def input(self, number): return type("Input", (), {"shape": (1, 1)})

class Core:
    available_devices = ["CPU"]
    def get_property(self, kind, name): return ["FP32"]
    def read_model(self, file): do(file); return file
    def compile_model(self, file, kind, settings): return Compiled(file)
"""


class Server:
    """An sshd of our own, with own keys, whose `python3` is a script; what that reads first, a test may write."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"ssh://target:{self.port}"
        for name in ("host_key", "key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "key.pub", folder / "authorized_keys")
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        there, here, stand_in = (folder / name for name in ("there", "here", "stand_in"))
        for each in (there, here, stand_in / "openvino"):
            each.mkdir(parents=True)
        (stand_in / "openvino" / "__init__.py").write_text(STAND_IN)
        python = f'#!/bin/sh\n. {folder}/first\necho $$ > {folder}/pid\nexec {sys.executable} "$@"\n'
        _script(there / "python3", python)
        _script(here / "ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/client "$@"\n')
        (folder / "client").write_text(
            f"Host target\n HostName 127.0.0.1\n IdentityFile {folder}/key\n IdentitiesOnly yes\n IdentityAgent none\n"
            f"Host *\n UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile none\n"
        )
        (folder / "server").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host_key\nPidFile {folder}/sshd.pid\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            # Not SetEnv: a login's .bashrc may put another python3 before ours.
            f'ForceCommand exec env PATH={there}:/usr/bin:/bin sh -c "exec $SSH_ORIGINAL_COMMAND"\n'
        )
        self.first("")

    def first(self, text):
        """Let the python3 there do this first, besides having the stand-in."""
        (self.folder / "first").write_text(f"export PYTHONPATH={self.folder}/stand_in\n{text}\n")

    @property
    def pid(self):
        """Of the latest python3 there."""
        return int((self.folder / "pid").read_text())

    @property
    def seen(self):
        """Short files that the stand-in opened."""
        return (self.folder / "stand_in" / "openvino" / "seen").read_text().split("\n")[:-1]

    def start(self):
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where a root's sshd wants to be shut in
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "server"], stderr=log)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self):
        """No new connections; the present ones stay."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


def _script(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("ssh"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv("PATH", str(running.folder / "here"), prepend=os.pathsep)
    kept = {name: (running.folder / name).read_text() for name in ("client", "known_hosts", "first")}
    yield running
    for name, text in kept.items():
        (running.folder / name).write_text(text)
    for name in ("seen", "died"):
        (running.folder / "stand_in" / "openvino" / name).unlink(missing_ok=True)
    if running.process is None:
        running.start()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where locks are left
    monkeypatch.setattr(ssh, "WAITS_S", (0.05, 0.05))


@pytest.fixture
def stand_in(monkeypatch, server):
    """A target with the stand-in; exporting, which takes a second, is not what these tests are about."""
    monkeypatch.setattr(ssh, "to_onnx", lambda network, shape, precision: b"reference")
    target = SshTarget(server.url, Setting("openvino"))
    yield target
    target.close()


@pytest.fixture
def network(tmp_path):
    """The path of a file with such bytes."""

    def write(told):
        (tmp_path / told).write_text(told)
        return tmp_path / told

    return write


GIVEN = Input((1, 1))


def time_all(target, *networks, seconds=0.1):
    return target.take_turns([target.open(each, GIVEN) for each in networks], seconds=seconds, min_turns=3)


@needs_server
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_network_is_timed_there(server, runtime):
    pytest.importorskip(runtime)
    timer = Timer(server.url, runtime=runtime)
    assert timer.reference_ms > 0
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 5)).eval()
    latency = timer.measure(small, 16, seconds=0.2)
    assert 0 < latency.low <= latency.p50 <= latency.high
    assert latency.p50 <= latency.p95
    assert latency.num_samples >= 21
    assert timer.drift() > 0
    assert timer.environment["versions"].keys() == {runtime}
    assert timer.environment["cores"] > 0
    with pytest.raises(CannotRun, match=f"{runtime} in fp32 on {server.url}: "):
        timer.measure(Path(__file__), 16)
    assert timer.measure(small, 16, seconds=0.1).p50 > 0


@needs_server
def test_networks_take_turns_with_each_other(stand_in, server, network):
    quick, slow = time_all(stand_in, network("quick"), network("slow"))
    assert len(quick) == len(slow) >= 3
    assert [reference for reference, _ in quick] == [reference for reference, _ in slow]
    assert server.seen == ["reference", "quick", "slow"]


@needs_server
def test_what_was_timed_is_closed_and_what_another_closed_is_sent_again(stand_in, server, network):
    early = stand_in.open(network("early"), GIVEN)
    time_all(stand_in, network("quick"))
    assert stand_in.take_turns([early], seconds=0.1, min_turns=3)[0]
    assert server.seen == ["reference", "early", "quick", "early"]


@needs_server
def test_a_network_that_cannot_run_is_said_so_and_the_connection_stays(stand_in, server, network):
    with pytest.raises(CannotRun) as caught:
        stand_in.open(network("bad"), GIVEN)
    assert str(caught.value) == f"openvino in fp32 on {server.url}: RuntimeError: no kernel for Conv"
    assert time_all(stand_in, network("quick"))
    assert server.seen == ["reference", "bad", "quick"]


@needs_server
@pytest.mark.parametrize(
    ("told", "opened"),
    [("die once", ["quick", "die once"]), ("die later", ["quick", "die later", "die once"])],
)
def test_an_end_in_the_middle_is_made_good(stand_in, server, network, told, opened):
    """Of the program there, while it opens a network or times several."""
    first = server.pid
    assert len(time_all(stand_in, network("quick"), network(told))) == 2
    assert server.pid != first
    assert server.seen[: len(opened) + 1] == ["reference", *opened]
    assert server.seen[len(opened) + 1] == "reference"
    assert set(server.seen[len(opened) + 2 :]) == set(opened)


@needs_server
def test_an_end_between_requests_is_made_good(stand_in, server):
    os.kill(server.pid, signal.SIGKILL)
    assert stand_in.reference_ms() > 0


@needs_server
def test_a_network_that_ends_the_program_again_and_again_is_at_fault(stand_in, server, network):
    with pytest.raises(CannotRun, match=f"{server.url} was lost 2 times with this network: the connection ended"):
        stand_in.open(network("die"), GIVEN)
    assert server.seen == ["reference", "die", "reference", "die", "reference"]
    assert time_all(stand_in, network("quick"))


@needs_server
def test_a_network_that_hangs_is_at_fault(stand_in, server, network, monkeypatch):
    monkeypatch.setattr(ssh, "ANSWER_S", 2.0)
    with pytest.raises(CannotRun, match="no answer within 2 s"):
        stand_in.open(network("hang"), GIVEN)


@needs_server
def test_a_machine_that_stays_away_is_a_target_error(stand_in, server, network):
    server.stop()
    os.kill(server.pid, signal.SIGKILL)
    for ask in (stand_in.reference_ms, lambda: stand_in.open(network("quick"), GIVEN)):
        with pytest.raises(TargetError) as caught:
            ask()
        assert str(caught.value) == (
            f"The target {server.url} stopped answering: it refuses the connection; what finished is kept, go on with "
            "--resume when it is back."
        )
    server.start()
    assert stand_in.reference_ms() > 0


@needs_server
def test_a_machine_that_comes_back_is_waited_for(stand_in, server, monkeypatch):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            server.start()

    monkeypatch.setattr(ssh, "WAITS_S", (1, 2, 4, 8))
    monkeypatch.setattr(ssh, "time", SimpleNamespace(sleep=sleep))
    server.stop()
    os.kill(server.pid, signal.SIGKILL)
    assert stand_in.reference_ms() > 0
    assert waited == [1, 2, 4]


@needs_server
def test_nothing_is_left_running(server, monkeypatch, network):
    monkeypatch.setattr(ssh, "to_onnx", lambda network, shape, precision: b"reference")
    target = SshTarget(server.url, Setting("openvino"))
    client = target._connection._process
    del target
    assert client.returncode is not None


@needs_server
def test_interrupting_leaves_no_late_answer(stand_in, server, network):
    # A worker of pytest-xdist has other plans for the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    opened = stand_in.open(network("slow"), GIVEN)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        stand_in.take_turns([opened], seconds=3.0, min_turns=10**6)
    timer.join()
    signal.signal(signal.SIGINT, before)
    assert stand_in.reference_ms() > 0


def failing(server, error=TargetError, url=None, setting=None):
    with pytest.raises(error) as caught:
        SshTarget(url or server.url, setting or Setting("torch"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_server
def test_an_unknown_host_key_is_not_accepted(server):
    (server.folder / "known_hosts").write_text("")
    assert failing(server) == (
        f"The target {server.url} cannot be used: its host key is unknown or has changed; connect once by hand with "
        f"`ssh -p {server.port} target` to check and accept the key."
    )
    assert (server.folder / "known_hosts").read_text() == ""


@needs_server
def test_a_changed_host_key_is_not_accepted(server):
    other = (server.folder / "other_key.pub").read_text()
    (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {other}")
    assert "its host key is unknown or has changed" in failing(server)


@needs_server
def test_a_key_that_does_not_fit(server):
    client = (server.folder / "client").read_text()
    (server.folder / "client").write_text(client.replace("/key\n", "/other_key\n"))
    assert failing(server) == (
        f"The target {server.url} cannot be used: it refuses the login; set up a login by key, so that "
        f"`ssh -p {server.port} target` asks for no password."
    )


@needs_server
def test_no_server_there(server):
    server.stop()
    assert "it refuses the connection; see that an ssh server runs there, on that port." in failing(server)


@needs_server
def test_no_such_host(server):
    assert "no such host is known here; check the name." in failing(server, url="ssh://no-such-host.invalid")


@needs_server
def test_no_python_there(server):
    server.first("exit 127")
    assert f"there is no python3; install Python there, on the PATH that `ssh -p {server.port}" in failing(server)


@needs_server
def test_an_old_python_there(server):
    server.first("echo SyntaxError: invalid syntax >&2; exit 1")
    said = failing(server)
    assert "its python3 ended with code 1 (SyntaxError: invalid syntax); it must be Python 3.9 or newer." in said


@needs_server
@pytest.mark.parametrize("error", ["ImportError", "ModuleNotFoundError"])
def test_no_runtime_there(server, monkeypatch, error, tmp_path):
    monkeypatch.setattr(ssh, "to_onnx", lambda network, shape, precision: b"reference")
    (tmp_path / "onnxruntime.py").write_text(f"raise {error}('it is not here')")
    server.first(f"export PYTHONPATH={tmp_path}")
    assert failing(server, setting=Setting("onnxruntime")) == (
        f"The target {server.url} cannot be used: its python3 cannot import onnxruntime ({error}: it is not here); pip "
        "install onnxruntime on that machine, or choose --runtime torch."
    )


@needs_server
def test_a_reference_that_cannot_run_there(server, monkeypatch):
    monkeypatch.setattr(ssh, "to_onnx", lambda network, shape, precision: b"reference")
    said = failing(server, ConfigError, setting=Setting("openvino", "bf16"))
    assert "openvino does not compute in bf16 on this CPU; choose another --precision or --runtime." in said


@needs_server
def test_a_login_that_greets_is_understood(server, monkeypatch):
    monkeypatch.setattr(ssh, "to_onnx", lambda network, shape, precision: b"reference")
    server.first("echo 'Welcome!'; echo '{braces'; echo 17")
    target = SshTarget(server.url, Setting("openvino"))
    assert target.reference_ms() > 0
    target.close()


@needs_server
def test_a_server_that_closes_at_first_is_asked_again(server, monkeypatch):
    """As one does that has too many connections just then."""
    monkeypatch.setattr(ssh, "to_onnx", lambda network, shape, precision: b"reference")
    there = server.folder / "there" / "python3"
    kept = there.read_text()
    _script(there, f"#!/bin/sh\ntouch {server.folder}/closed\nkill -9 $$\n")

    def sleep(seconds):
        assert (server.folder / "closed").exists()
        _script(there, kept)

    monkeypatch.setattr(ssh, "time", SimpleNamespace(sleep=sleep))
    target = open_target(server.url, Setting("openvino"))
    assert isinstance(target, SshTarget)
    target.close()


def test_no_ssh_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no program `ssh` on the PATH" in failing(None, ConfigError, "ssh://board")


@pytest.mark.parametrize("runtime", ["compile", "cudagraphs"])
def test_runtimes_of_this_machine_only(runtime):
    said = failing(None, ConfigError, "ssh://board", Setting(runtime))
    assert f"{runtime} runs on this machine only" in said
    assert "torch, onnxruntime, openvino, tensorrt" in said


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("ssh://board", ["ssh", "board"]),
        ("ssh://pi@board.local:2222", ["ssh", "-p", "2222", "pi@board.local"]),
        ("ssh://me.too+x@10.0.0.7", ["ssh", "me.too+x@10.0.0.7"]),
        ("ssh://pi@[fe80::1%eth0]:22", ["ssh", "-p", "22", "pi@fe80::1%eth0"]),
    ],
)
def test_good_urls(url, arguments):
    assert ssh_arguments(url) == arguments


@pytest.mark.parametrize(
    "url",
    [
        "ssh:",
        "ssh://",
        "ssh:board",
        "ssh:///board",
        "ssh://-oProxyCommand=id",
        "ssh://-l@board",
        "ssh://pi@-board",
        "ssh://pi@",
        "ssh://@board",
        "ssh://board:",
        "ssh://board:0",
        "ssh://board:65536",
        "ssh://board:ssh",
        "ssh://board:22:22",
        "ssh://board/path",
        "ssh://bo ard",
        "ssh://board\n",
        "ssh://board;id",
        "ssh://$(id)",
        "ssh://pi:secret@board",
        "ssh://b\u00f6ard",
        "ssh://[::1",
    ],
)
def test_bad_urls(url):
    with pytest.raises(ConfigError) as caught:
        open_target(url, Setting("torch"))
    assert str(caught.value) == f"A target over ssh is written ssh://user@host[:port], got {url!r}."


@needs_server
def test_a_search_against_another_machine(server, space_file, npz_file, tmp_path):
    """The whole of it: parts and networks timed there, the exported file, too; both targets hold their budgets."""
    config = SearchConfig(
        space=str(space_file),
        data=str(npz_file),
        target=("cpu", server.url),
        runtime="onnxruntime",
        budget_ms=(500, 1000),
        epochs=1,
        trials=1,
        threads=1,
        baselines="none",
        out=tmp_path / "run",
    )
    run = run_search(config)
    trained = run.trials[run.trials.status == "complete"]
    assert len(trained) == 1 and (trained[f"latency_ms_p50 {server.url}"] > 0).all()
    here, there = run.result["targets"]
    assert there["target"] == server.url and 0 < there["latency_ms_p50"] <= 1000
    assert 0 < here["latency_ms_p50"] <= 500
    assert (tmp_path / "run" / "best" / "model.onnx").stat().st_size > 1000
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["targets"][1]["versions"]["onnxruntime"]
