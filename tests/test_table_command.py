"""`table`: the command that fills, shows, checks and forgets what parts cost. Its timer makes up its figures."""

import itertools
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from made_up import MadeUpTimer

from hybridnas import tabling
from hybridnas.cli import exit_code
from hybridnas.cost.table import Table
from hybridnas.files import CACHE_VARIABLE
from hybridnas.space import SearchSpace
from hybridnas.table import app

SPACE = """\
image_size: 16
stem: {type: conv, width: 8}
stages:
  - {transition: conv, block: [mbconv, convnext, repmixer], depth: [1, 2, 3], width: [8, 16]}
  - {transition: conv, block: [mbconv, convnext, repmixer], depth: [1, 2], width: 16}
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(tabling, "Timer", MadeUpTimer)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "few.yaml"
    path.write_text(SPACE)
    return str(path)


@pytest.fixture
def table(capsys):
    """Exit code, what was printed, and what was told on the way."""

    def run(*arguments):
        code = exit_code(app, arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def contexts():
    table = Table()
    try:
        return {context: (num_parts, num) for context, _, num_parts, num in table.contexts()}
    finally:
        table.close()


def test_a_space_is_filled_once(table, space):
    code, out, told = table("build", space, "--target", "cpu", "--threads", "1")
    assert (code, out) == (0, "")
    num_parts = int(re.search(r"(\d+) parts, 0 counted before", told)[1])
    num_times = int(re.search(r"(\d+) times of parts, 0 of them there before", told)[1])
    assert f"counting: {num_parts} of {num_parts}\n" in told and f"timing: {num_times} of {num_times}\n" in told
    assert told.endswith("The table is complete.\n")
    assert list(contexts().values()) == [(num_times, 0)]

    code, out, told = table("build", space, "--target", "cpu", "--threads", "1")
    assert (code, out) == (0, "")
    assert f"{num_parts} parts, {num_parts} counted before" in told
    assert f"{num_times} times of parts, {num_times} of them there before" in told
    assert "timing:" not in told and told.endswith("The table is complete.\n")


def test_stopped_by_hand_it_goes_on(table, space, monkeypatch):
    class Stopped(MadeUpTimer):
        def measure_opened(self, opened, **options):
            if len(self.groups) == 2:
                raise KeyboardInterrupt
            return super().measure_opened(opened, **options)

    monkeypatch.setattr(tabling, "Timer", Stopped)
    code, _, told = table("build", space)
    assert code == 130
    assert told.endswith("hybridnas: stopped; what finished is kept.\n")
    assert list(contexts().values()) == [(24, 0)]
    monkeypatch.setattr(tabling, "Timer", MadeUpTimer)
    code, _, told = table("build", space)
    assert code == 0
    assert "24 of them there before" in told and "complete" in told


def test_it_ends_when_the_time_is_over(table, space, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tabling, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(MadeUpTimer):
        def measure_opened(self, opened, **options):
            now[0] += 301
            return super().measure_opened(opened, **options)

    monkeypatch.setattr(tabling, "Timer", Slow)
    code, _, told = table("build", space, "--time", "10m")
    assert code == 0 and "complete" not in told
    num_times = int(re.search(r"(\d+) times of parts", told)[1])
    assert told.endswith(f"The time is over: {num_times - 24} are still to time.\n")
    assert "timing: 24 of" in told and f"about {301 * (num_times - 24) / 12:.0f} s left" in told
    assert list(contexts().values()) == [(24, 0)]


def test_it_ends_while_it_counts(table, space, monkeypatch):
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(tabling, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    code, _, told = table("build", space, "--time", "150m")
    assert code == 0
    left = int(re.search(r"The time is over: (\d+) parts are still to count.\n$", told)[1])
    assert left == int(re.search(r"(\d+) parts, 0 counted before", told)[1]) - 1
    assert list(contexts().values()) == [(0, 0)]


def test_parts_that_cannot_run_are_named_and_the_others_timed(table, space, monkeypatch):
    class Poor(MadeUpTimer):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, cannot=[16], **settings)

    monkeypatch.setattr(tabling, "Timer", Poor)
    code, _, told = table("build", space)
    assert code == 0
    assert "cannot run: block convnext 16, 4: too few beads\n" in told
    failed = int(re.search(r"The table is complete but for (\d+)\.", told)[1])
    asked = int(re.search(r"(\d+) times of parts", told)[1])
    assert list(contexts().values()) == [(asked - failed, 0)]
    code, _, told = table("check", space, "-n", "2")
    assert code == 2
    assert "The target cpu can run none of the networks that were drawn" in told


def test_what_it_holds_is_a_line_a_context(table, space):
    code, out, _ = table("show")
    assert code == 0
    (only,) = out.splitlines()
    assert only.endswith("cost.sqlite: counts of 0 parts")
    table("build", space, "--target", "cpu", "--threads", "1")
    table("check", space, "-n", "2", "--target", "cpu", "--threads", "2", "--batch-size", "4", "--runtime", "compile")
    code, out, _ = table("show")
    first, *lines = out.splitlines()
    assert re.search(r"cost.sqlite: counts of \d\d+ parts$", first)
    assert len(lines) == 2
    by_runtime = dict(sorted((line.split()[2], line) for line in lines))
    assert re.search(
        r"^\S+: cpu, torch fp32, batch 1, threads 1, Abacus 2, beads 1.0: \d+ parts, 0 networks$", by_runtime["torch"]
    )
    assert re.search(
        r": cpu, compile fp32, batch 4, threads 2, Abacus 2, beads 1.0: \d+ parts, 2 networks$", by_runtime["compile"]
    )


def test_contexts_of_other_code_are_marked(table):
    other = Table()
    machine = {"target": "cpu", "runtime": "torch", "precision": "fp32", "batch_size": 1, "threads": 1}
    other.add_machine("abc-older", machine)
    other.close()
    _, out, _ = table("show")
    assert out.splitlines()[1] == (
        "abc-older: cpu, torch fp32, batch 1, threads 1, unknown machine, no versions: 0 parts, 0 networks; "
        "of other code, no longer used"
    )


def test_predictions_are_compared_with_what_is_measured(table, space):
    code, out, told = table("check", space, "--networks", "5", "--target", "cpu")
    assert code == 0
    assert "timing networks: 5 of 5" in told
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == 5
    measured = []
    for families, px, predicted, interval, ms, error in rows:
        assert set(families.split("-")) <= {"mbconv", "convnext", "repmixer"} and px == "16"
        assert float(predicted) / float(ms) - 1 == pytest.approx(float(error.split()[0]) / 100, abs=2e-3)
        low, high = map(float, interval.split(" to "))
        assert low < float(predicted) < high
        measured.append(float(ms))
    assert measured == sorted(measured)
    # Of the made-up parts more than the calls themselves is taken off: what is left is a little less than the network.
    assert all(float(row[2]) < float(row[4]) for row in rows)
    assert re.search(
        r"^Within 10 %: \d of 5 \(\d+ %\); median error \d+\.\d %; inside the 95 % interval: [345] of 5, "
        r"Spearman (0\.\d+|1\.000)\.$",
        out.splitlines()[-1],
    )


def test_networks_are_checked_once(table, space):
    table("check", space, "-n", "5")
    assert list(contexts().values())[0][1] == 5
    code, _, told = table("check", space, "-n", "5")
    assert code == 0 and list(contexts().values())[0][1] == 10
    # The space has 108 networks, so that those not drawn yet run out.
    size = SearchSpace.load(space).size
    code, _, told = table("check", space, "-n", str(size))
    assert code == 0 and list(contexts().values())[0][1] == size
    code, out, told = table("check", space, "-n", "5")
    assert (code, out) == (2, "")
    assert "have been timed before" in told and "another --seed" in told


def test_one_network_has_no_rank(table, space):
    code, out, _ = table("check", space, "-n", "1")
    assert code == 0
    assert "Spearman" not in out and "of 1" in out


def test_a_seed_draws_the_same_networks(table, space):
    def families(seed):
        _, out, _ = table("check", space, "-n", "4", "--seed", str(seed))
        table("clear", "--yes")
        return [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]

    assert families(1) == families(1) != families(2)


# --- forgetting


@pytest.fixture
def two_contexts(table, space):
    for runtime in ("torch", "onnxruntime"):
        table("build", space, "--target", "cpu", "--runtime", runtime)
    return sorted(contexts())


def test_one_context_is_forgotten(table, two_contexts):
    onnxruntime, torch = two_contexts
    code, out, _ = table("clear", "cpu-t", "--yes")
    assert (code, out) == (0, f"Forgotten: what was timed in {torch}.\n")
    assert list(contexts()) == [onnxruntime]


def test_everything_is_forgotten(table, two_contexts):
    code, out, _ = table("clear", "--yes")
    assert code == 0 and out.startswith("Forgotten: everything in ")
    assert contexts() == {}
    assert "counts of 0 parts" in table("show")[1]


@pytest.mark.parametrize(
    ("beginning", "named"), [("zz", "No context begins with 'zz'"), ("cpu-", "2 contexts begin with 'cpu-'")]
)
def test_a_context_must_be_one(table, two_contexts, beginning, named):
    code, out, err = table("clear", beginning, "--yes")
    assert (code, out) == (2, "")
    assert named in err and all(context in err for context in two_contexts)
    assert sorted(contexts()) == two_contexts


def test_it_asks_on_a_terminal_alone(table, two_contexts, monkeypatch):
    code, out, err = table("clear")
    assert (code, out) == (2, "")
    assert "give --yes" in err and len(contexts()) == 2

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, left in ((False, 2), (True, 0)):
        monkeypatch.setattr("typer.confirm", lambda question, answer=answer: answer)
        assert table("clear")[0] == 0
        assert len(contexts()) == left


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["build", "nope"], "No space 'nope'"),
        (["build", "tiny", "--time", "soon"], "--time must be a duration"),
        (["build", "tiny", "--time", "0s"], "--time must be over 0"),
        (["build", "tiny", "--runtime", "nope"], "--runtime must be one of"),
        (["build", "tiny", "--precision", "int4"], "--precision of the runtime torch must be one of"),
        (["build", "tiny", "--num-classes", "0"], "--num-classes"),
        (["check", "tiny", "-n", "0"], "--networks"),
        (["check", "tiny", "--seed", "-1"], "--seed"),
        (["build"], "SPACE"),
    ],
)
def test_a_mistake_is_one_sentence(table, arguments, named):
    code, out, err = table(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("hybridnas: ") and named in err and err.count("\n") == 1


def test_an_unknown_target_is_a_sentence(table, monkeypatch):
    monkeypatch.undo()
    code, _, err = table("build", "tiny", "--target", "tpu")
    assert code == 2 and "'tpu'" in err


def test_a_file_that_is_no_table_is_a_sentence(table, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cost.sqlite").write_text("Dear diary, " * 100)
    for arguments in (["show"], ["clear", "--yes"], ["build", "tiny"]):
        code, _, err = table(*arguments)
        assert code == 2 and "cost.sqlite cannot be used" in err and "remove it" in err


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["show"]])
def test_what_needs_no_torch_loads_none(arguments):
    program = (
        f"import sys; sys.argv = ['x', 'table', *{arguments!r}]\n"
        "from hybridnas.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False False"
