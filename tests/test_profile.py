"""The commands that measure known networks: `profile` and `recommend`. Of how fast they are, no test says anything."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from hybridnas import profile_models, zoo
from hybridnas.cli import exit_code
from hybridnas.errors import BudgetError, ConfigError
from hybridnas.profile import app as profile_app
from hybridnas.recommend import app as recommend_app
from hybridnas.recommending import SITUATIONS, recommend
from hybridnas.report import drawing
from hybridnas.report.comparison import profile_table
from hybridnas.space import shipped_spaces

KEYS = "name params macs latency_ms_p50 latency_ms_p95 image_size batch_size target runtime layout".split()


def profile(capsys, *arguments):
    """Exit code, what was printed, and what was complained of."""
    code = exit_code(profile_app, [*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def profiled(capsys, *arguments):
    code, out, err = profile(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_scores_may_be_as_many_as_there_are_classes(capsys):
    many, few = (
        profiled(capsys, "mobilenetv2_100", "--no-latency", *flags)[0]["params"]
        for flags in ((), ("--num-classes", 10))
    )
    assert many - few == 990 * (1280 + 1)


def test_json_has_an_object_a_network(capsys, tmp_path):
    file = tmp_path / "architecture.json"
    file.write_text(zoo.load("levit_128").to_json())
    rows = profiled(capsys, "mobilenetv2_100", "timm:resnet18", str(file), "--no-latency", "--target", "cpu")
    assert [row["name"] for row in rows] == ["mobilenetv2_100", "timm:resnet18", str(file)]
    assert all(set(KEYS) <= set(row) for row in rows)
    assert [row["layout"] for row in rows] == ["CCCCC", None, "TTT"]
    assert [row["image_size"] for row in rows] == [224, 224, 224]
    assert {row["latency_ms_p50"] for row in rows} == {None}
    assert {(row["batch_size"], row["target"], row["runtime"]) for row in rows} == {(1, "cpu", "torch")}
    assert rows[0]["params"] == pytest.approx(3.5e6, rel=0.01)
    assert rows[1]["params"] == 11_689_512  # torchvision's documentation of ResNet-18
    assert rows[1]["macs"] == pytest.approx(1.81e9, rel=0.01)


def test_networks_are_timed(capsys):
    (row,) = profiled(capsys, "mobilenetv3_large_100", "--image-size", "64", "--batch-size", "2", "--threads", "1")
    assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
    assert row["throughput"] == pytest.approx(2000 / row["latency_ms_p50"], rel=1e-3)
    assert (row["batch_size"], row["image_size"]) == (2, 64)


def test_the_deploy_form_is_measured(capsys):
    rows = profiled(capsys, "fastvit_t8", "timm:fastvit_t8", "--no-latency")
    unfused = 4_027_000  # timm's model in its training form
    assert all(row["params"] < unfused - 20_000 for row in rows)
    assert rows[0]["params"] == pytest.approx(rows[1]["params"], rel=1e-3)
    assert rows[0]["macs"] == pytest.approx(rows[1]["macs"], rel=1e-3)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "timm:vit_small_patch14_dinov2", "timm:resnet18"])
def test_another_image_size(capsys, name):
    small, large = (profiled(capsys, name, "--no-latency", "--image-size", str(size))[0]["macs"] for size in (112, 224))
    assert 3 < large / small < 5


def test_the_table_has_a_line_for_each(capsys):
    code, out, err = profile(capsys, "levit_128", "edgevit_xxs", "--no-latency", "--target", "cpu")
    assert code == 0
    assert "measuring levit_128" in err
    lines = [line for line in out.splitlines() if "levit_128" in line or "edgevit_xxs" in line]
    assert [line.split("│")[2].strip() for line in lines] == ["TTT", "TTTT"]
    assert [line.split("│")[6].strip() for line in lines] == ["-", "-"]
    assert "cpu, torch fp32, batch 1" in out


@pytest.mark.parametrize("flags", [["--threads", "1"], ["--no-latency"]], ids=["timed", "counted"])
def test_architectures_are_drawn_with_the_shares_of_their_stages(capsys, tmp_path, monkeypatch, flags):
    file = tmp_path / "mine" / "best" / "architecture.json"
    file.parent.mkdir(parents=True)
    file.write_text(zoo.load("mobilenetv2_100").to_json())
    drawn = []
    draw = drawing.draw_architecture
    monkeypatch.setattr(drawing, "draw_architecture", lambda *given: drawn.append(given) or draw(*given))
    code, _, err = profile(capsys, "levit_128", file, "--image-size", 64, "--draw", tmp_path / "to" / "here", *flags)
    assert code == 0, err
    names = {f"{name}.{kind}" for name in ("levit_128", "mine") for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "to" / "here").iterdir()} == names
    for architecture, stage_ms, title in drawn:
        assert architecture.image_size == 64 and "64 px" in title
        assert (stage_ms is None) == (flags == ["--no-latency"])
        assert not stage_ms or (len(stage_ms) == len(architecture.stages) + 2 and min(stage_ms) > 0)


def test_what_cannot_be_drawn_is_said(capsys, tmp_path):
    twins = [tmp_path / "a" / "best" / "mine.json", tmp_path / "b" / "best" / "mine.json"]
    for file in twins:
        file.parent.mkdir(parents=True)
        file.write_text(zoo.load("levit_128").to_json())
    for names, said in [
        (["timm:resnet18"], "--draw: timm:resnet18 is a model of timm, whose stages are not known here."),
        (twins, "--draw: several of these would be drawn as mine.png."),
    ]:
        code, _, err = profile(capsys, *names, "--no-latency", "--draw", tmp_path / "drawn")
        assert code == 2 and err == f"hybridnas: {said}\n" and not (tmp_path / "drawn").exists()


def test_all_ranks_the_zoo(capsys, monkeypatch):
    monkeypatch.setattr(zoo, "names", lambda: ("resnet50", "levit_128", "mobilenetv2_100"))
    rows = profiled(capsys, "--all", "--no-latency")
    assert [row["name"] for row in rows] == ["mobilenetv2_100", "levit_128", "resnet50"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["resnet5"], "did you mean resnet50"),
        (["timm:resnet5"], "did you mean resnet50"),
        (["none.json"], "none.json cannot be read"),
        ([], "Give names or --all"),
        (["--all", "resnet50"], "Give names or --all"),
        (["levit_128", "--target", "tpu"], "'tpu'"),
        (["levit_128", "--runtime", "tvm"], "--runtime must be one of torch, compile, cudagraphs,"),
        (["levit_128", "--precision", "int8"], "--precision of the runtime torch must be one of"),
        (["timm:inception_v3", "--image-size", "10"], "timm:inception_v3 cannot run on images of 10 x 10"),
        (["levit_128", "--batch-size", "0"], "--batch-size"),
        (["timm:resnet18.nope", "--no-latency"], "timm:resnet18.nope cannot run"),
        (["mobilenetv3_large_100", "--batch-size", "1000000000"], "cannot be timed with batch 1000000000"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, arguments, named):
    code, out, err = profile(capsys, *arguments)
    assert (code, out) == (2, "")
    sentence = err.strip().splitlines()[-1]
    assert sentence.startswith("hybridnas: ") and named in sentence
    assert "Traceback" not in err


def test_architectures_by_name_from_python():
    table = profile_models({"mine": zoo.load("edgevit_xxs")}, num_classes=10, latency=False)
    assert isinstance(table, pd.DataFrame)
    assert list(table.name) == ["mine"]
    assert table.params[0] < zoo.entry("edgevit_xxs").published.params - 250_000  # 990 classes fewer of 288 features


@pytest.mark.parametrize("command", ["profile", "recommend"])
def test_help_costs_no_torch(command):
    program = (
        f"import sys; sys.argv = ['x', '{command}', '--help']\n"
        "from hybridnas.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False False"


# --- recommend


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_situation_names_designs_and_a_space_that_exist(situation):
    guide = SITUATIONS[situation]
    assert set(guide.designs) <= set(zoo.names())
    assert guide.space in shipped_spaces()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_answer_is_a_design_of_the_guide_if_one_holds_the_budget(situation):
    latency_ms = {name: 10.0 + i for i, name in enumerate(SITUATIONS[situation].designs)}
    best = max(latency_ms, key=lambda name: zoo.entry(name).top1)
    answer = recommend(situation, latency_ms, budget_ms=100)
    assert answer.design == best and "of the guide's" in answer.reason


def test_other_latencies_change_the_answer():
    # timm's weights: fastvit_t8 76.2, mobilevit_s 78.3, fastvit_sa12 80.8.
    here = {"mobilevit_s": 20.0, "fastvit_t8": 5.0, "fastvit_sa12": 30.0}
    there = {"mobilevit_s": 30.0, "fastvit_t8": 5.0, "fastvit_sa12": 20.0}
    assert recommend("mobile", here, budget_ms=25).design == "mobilevit_s"
    assert recommend("mobile", there, budget_ms=25).design == "fastvit_sa12"
    assert recommend("mobile", there, budget_ms=10).design == "fastvit_t8"


def test_without_a_budget_accuracy_counts_against_time():
    assert recommend("mobile", {"fastvit_t8": 10.0, "fastvit_sa12": 12.0}).design == "fastvit_sa12"
    # 4.66 points are worth 3.1 doublings at 1.5 points each: 8.6 times the time.
    assert recommend("mobile", {"fastvit_t8": 10.0, "fastvit_sa12": 84.0}).design == "fastvit_sa12"
    assert recommend("mobile", {"fastvit_t8": 10.0, "fastvit_sa12": 88.0}).design == "fastvit_t8"


def test_where_the_guide_is_too_slow_the_zoo_answers():
    latency_ms = {"efficientformer_l1": 50.0, "edgevit_xxs": 40.0, "levit_128": 9.0, "mobilenetv2_100": 8.0}
    answer = recommend("edge", latency_ms, budget_ms=10)
    assert answer.design == "levit_128" and "of the whole zoo" in answer.reason


def test_nothing_holds_the_budget():
    with pytest.raises(BudgetError, match="the fastest, edgevit_xxs, takes 40 ms"):
        recommend("edge", {"efficientformer_l1": 50.0, "edgevit_xxs": 40.0}, budget_ms=10)


def test_an_unknown_situation():
    with pytest.raises(ConfigError, match="--situation must be one of server, .*, got 'desk'"):
        recommend("desk", {})


def fake_measurements(latency_ms):
    def measure(names, **options):
        return pd.DataFrame({"name": list(names), "latency_ms_p50": [latency_ms.get(name, 500.0) for name in names]})

    return measure


def test_the_command_names_design_and_space(capsys, monkeypatch):
    monkeypatch.setattr("hybridnas.profiling.profile_models", fake_measurements({"fastvit_t8": 4.0}))
    assert exit_code(recommend_app, ["--situation", "mobile", "--budget-ms", "10"]) == 0
    out = capsys.readouterr().out
    assert "Start from fastvit_t8: the most accurate within 10 ms of the guide's 3." in out
    assert "--space mobile --budget-ms 10" in out
    assert "--around fastvit_t8 --budget-ms 10" in out
    given = [
        "--target",
        "cpu",
        "--runtime",
        "onnxruntime",
        "--precision",
        "fp16",
        "--batch-size",
        "4",
        "--threads",
        "2",
    ]
    assert exit_code(recommend_app, ["--situation", "mobile", *given]) == 0
    as_measured = "--target cpu --runtime onnxruntime --precision fp16 --latency-batch-size 4 --threads 2"
    assert f"--space mobile {as_measured}\n" in capsys.readouterr().out


def test_the_command_measures_the_zoo_only_where_it_must(capsys, monkeypatch):
    monkeypatch.setattr("hybridnas.profiling.profile_models", fake_measurements({"levit_128": 3.0}))
    assert exit_code(recommend_app, ["--situation", "server", "--budget-ms", "10"]) == 0
    assert "Start from levit_128: the most accurate within 10 ms of the whole zoo" in capsys.readouterr().out


def test_exit_code_3_where_nothing_holds(capsys, monkeypatch):
    monkeypatch.setattr("hybridnas.profiling.profile_models", fake_measurements({}))
    assert exit_code(recommend_app, ["--situation", "server", "--budget-ms", "10"]) == 3
    assert "No design of the zoo holds 10 ms here" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--situation", "desk"], [], ["--situation", "edge", "--budget-ms", "0"]])
def test_a_mistake_of_recommend_is_one_sentence(capsys, arguments):
    assert exit_code(recommend_app, arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err


def test_the_table_of_designs_with_and_without_a_layout() -> None:
    found = profile_models(["timm:mobilenetv2_100", "mobilenetv2_100"], image_size=32, latency=False)
    assert found.layout.tolist() == [None, "CCCCC"]
    assert list(profile_table(found).columns[1].cells) == ["-", "CCCCC"]
