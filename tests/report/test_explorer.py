"""The explorer: its facts, and the page itself in a real browser."""

import json
import re
import shlex
import shutil
import time
from contextlib import contextmanager

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridnas import Architecture, Run, SearchConfig, Stage, Transition
from hybridnas.architecture import Stem
from hybridnas.cost.budget import Cost
from hybridnas.errors import RunError
from hybridnas.report.explorer import in_script, page, write_explorer
from hybridnas.report.facts import facts
from hybridnas.study.records import TrialRecord, typed

CHROMIUM = shutil.which("chromium")
EVIL = "<img src=x onerror=alert(1)>"
WORSE = '</script><script>alert(2)</script><!-- &amp; "\u2028'

#: Accuracy and milliseconds on the first target, fastest first; 0, 1 and 3 are the front.
POINTS = ((0.50, 1.0), (0.70, 2.0), (0.60, 3.0), (0.80, 4.0))


def design(i, block="mbconv"):
    stages = (
        Stage(Transition("conv", 2), block, 1, 16),
        Stage(Transition("conv", 2), "window", 1 + i, 32, {"head_dim": 8}),
    )
    return Architecture(32, Stem("conv", 16), stages)


def trial(i, status="complete", targets=("cpu",), machine="abacus", block="mbconv", name="", reason=""):
    accuracy, ms = POINTS[i % len(POINTS)]
    measured = [
        Cost((i + 1) * 10**6, (9 - i) * 10**4, k * ms, 1.1 * k * ms, 0.9 * k * ms, target, 1, machine=machine)
        for k, target in enumerate(targets, 1)
    ]
    trained = {"complete": (0.2, 0.4, accuracy), "pruned": (0.2,)}.get(status, ())
    worst = ms if trained else None
    return TrialRecord(
        i, design(i, block), name, status, reason, tuple(measured), trained, 9.0, i, worst, len(trained) // 3
    )


def run_of(folder, records, result=None, stage_ms=None, **config):
    settings = {"space": "tiny", "target": "cpu", "budget_ms": 5.0, "rungs": (1, 3), "threads": 1} | config
    trials = typed(
        pd.DataFrame([record.row() for record in records], columns=None if records else list(trial(0).row()))
    )
    trials["stage_ms"] = pd.Series(stage_ms or [""] * len(trials), dtype="string", index=trials.index)
    folder.mkdir(exist_ok=True)
    return Run(folder, SearchConfig(**settings), trials, result or {})


@pytest.fixture
def run(tmp_path):
    return run_of(
        tmp_path / "run", [trial(0), trial(1), trial(2), trial(3), trial(4, "pruned"), trial(5, "infeasible")]
    )


RESULT = {
    "winner": 3,
    "num_classes": 3,
    "accuracy": 0.9,
    "margin": 0.02,
    "seeds": 2,
    "epochs": 6,
    "test_accuracy": 0.88,
    "targets": [{"target": "cpu", "budget_ms": 5.0, "latency_ms_p50": 4.1, "latency_ms_p95": 4.6}],
    "confirmed": [{"number": 3, "accuracy": 0.9, "seeds": 2, "epochs": 6}],
    "baselines": [
        {"name": "resnet", "kind": "zoo", "layout": "CCCC", "macs": 3 * 10**6, "params": 10**5, "targets_ms": [3.5]}
        | {"accuracies": [0.7, 0.8], "accuracy": 0.75, "test_accuracy": None, "pretrained": True}
    ],
}


def until(seen):
    """Wait for what a page shows; playwright's own waiting runs strings in the page, which its policy forbids."""
    end = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_each_cost_has_its_front_and_the_changes_along_it(run):
    latency, macs, params = facts(run)["axes"]
    assert latency["fronts"] == macs["fronts"] == [[0, 1, 3]]
    assert params["fronts"] == [[3]]  # the most accurate has the fewest
    assert latency["changes"] == [[], [["stage 2", "depth", 1, 2]], [["stage 2", "depth", 2, 4]]]
    assert (latency["budget"], macs["budget"]) == (5.0, None)


def test_a_trial_says_what_the_table_of_the_run_says(run):
    found = facts(run)["trials"]
    assert [each["number"] for each in found] == run.trials.number.tolist()
    assert [each["status"] for each in found] == ["complete"] * 4 + ["pruned", "infeasible"]
    assert found[1]["costs"] == [2.0, 2 * 10**6, 8 * 10**4]
    assert found[1]["latency"] == [{"p50": 2.0, "p95": 2.2, "low": None, "high": None, "predicted": 1.8}, None, None]
    assert [each["epochs"] for each in found] == [3, 3, 3, 3, 1, None]
    assert found[0]["resolutions"] == [16, 8, 4]
    assert found[0]["stage_ms"] is None


def test_several_targets_have_an_axis_each_and_one_for_the_worst(tmp_path):
    run = run_of(tmp_path / "run", [trial(0, targets=("cpu", "cuda"))], target=("cpu", "cuda"), budget_ms=(5.0, 8.0))
    assert [(axis["name"], axis["budget"]) for axis in facts(run)["axes"]] == [
        ("latency on cpu", 5.0),
        ("latency on cuda", 8.0),
        ("worst latency", 1.0),
        ("multiply-adds", None),
        ("parameters", None),
    ]
    assert facts(run)["trials"][0]["costs"][:3] == [1.0, 2.0, 1.0]


def test_without_a_budget_in_milliseconds_no_axis_has_one(tmp_path):
    run = run_of(tmp_path / "run", [trial(0, targets=("cpu", "cuda"))], target=("cpu", "cuda"), budget_ms=None)
    assert [axis["budget"] for axis in facts(run)["axes"]] == [None] * 5


def test_a_frozen_table_is_drawn_by_what_it_predicts(tmp_path):
    run = run_of(tmp_path / "run", [trial(0)], frozen_table=True)
    assert facts(run)["trials"][0]["costs"][0] == 0.9


def test_milliseconds_of_stages_are_those_of_the_run_or_a_clear_sentence(tmp_path):
    given = run_of(tmp_path / "run", [trial(0), trial(1)], stage_ms=["0.1 0.2 0.3 0.4", ""])
    assert [each["stage_ms"] for each in facts(given)["trials"]] == [[0.1, 0.2, 0.3, 0.4], None]
    for damaged in ("0.1 0.2", "0.1 0.2 0.3 much"):
        with pytest.raises(RunError, match="trials.csv is damaged"):
            facts(run_of(tmp_path / "run", [trial(0)], stage_ms=[damaged]))


def test_a_baseline_of_which_less_is_said_is_shown(tmp_path):
    result = RESULT | {"baselines": [{"name": "resnet", "kind": "zoo", "accuracy": 0.75, "targets_ms": []}]}
    (found,) = facts(run_of(tmp_path / "run", [trial(i) for i in range(4)], result=result))["baselines"]
    assert found["costs"] == [None, None, None] and found["seeds"] == 1 and found["layout"] == ""


def test_a_baseline_has_a_place_on_the_axis_of_each_target(tmp_path):
    row = {**RESULT["baselines"][0], "targets_ms": [3.5, 4.0], "worst_latency": 0.7}
    run = run_of(
        tmp_path / "run",
        [trial(0, targets=("cpu", "cuda"))],
        result=RESULT | {"baselines": [row], "winner": 0, "confirmed": []},
        target=("cpu", "cuda"),
        budget_ms=(5.0, 8.0),
    )
    assert facts(run)["baselines"][0]["costs"] == [3.5, 4.0, 0.7, 3e6, 1e5]


def test_another_run_is_drawn_beside_it_where_its_figures_compare(tmp_path, run):
    same = run_of(tmp_path / "same", [trial(0), trial(1), trial(2)])
    elsewhere = run_of(tmp_path / "elsewhere", [trial(1, machine="other")])
    found = facts(run, [same, elsewhere])
    latency, macs, params = found["axes"]
    # What was timed on another machine has no latency here, but the same multiply-adds.
    assert latency["fronts"] == [[0, 1, 3], [6, 7], []]
    assert macs["fronts"] == [[0, 1, 3], [6, 7], [9]]
    assert [(each["run"], each["number"]) for each in found["trials"][6:]] == [(1, 0), (1, 1), (1, 2), (2, 1)]
    assert found["trials"][9]["costs"] == [None, 2 * 10**6, 8 * 10**4]


def test_a_machine_that_nobody_named_is_like_no_other(tmp_path):
    first, second = (run_of(tmp_path / name, [trial(0, machine="")]) for name in ("first", "second"))
    latency, macs, _ = facts(first, [second])["axes"]
    assert latency["fronts"] == [[0], []] and macs["fronts"] == [[0], [1]]


def estimate(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def write_trust(run, **changes):
    names = ("accuracy", "tau", "more_macs", "more_params", "ceiling")
    trust = {name: estimate(0.8) for name in names} | {
        "num_networks": 4,
        "num_pairs": 12,
        "bias": estimate(float("nan")),
    }
    stored = {"epochs": 15, "accuracies": {}, "verdict": f"Believe it. {EVIL}", "trust": trust} | changes
    (run.folder / "trust.json").write_text(json.dumps(stored))


def test_trust_is_told_as_it_was_found(run):
    assert facts(run)["trust"] is None
    write_trust(run)
    found = facts(run)["trust"]
    assert (found["networks"], found["pairs"], found["epochs"]) == (4, 12, 15)
    assert found["estimates"]["accuracy"] == {"value": 0.8, "low": pytest.approx(0.7), "high": pytest.approx(0.9)}
    assert found["estimates"]["bias"]["value"] is None  # JSON has no NaN
    write_trust(run, trust=[])
    with pytest.raises(RunError, match="trust.json is damaged"):
        facts(run)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_facts_survive_the_script_element_and_cannot_end_it(found):
    text = in_script(found)
    assert json.loads(text) == found
    assert not set("<>&\u2028\u2029") & set(text)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=180_000
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser, run, others=(), **context):
    """The page once it says that it is drawn; it must ask for nothing, complain of nothing and open no dialog."""
    path = run.folder / "explorer.html"
    write_explorer(run, path, others)
    with browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, **context) as made:
        shown = made.new_page()
        complaints = []
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))
        shown.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
        shown.goto(path.as_uri())
        shown.wait_for_selector("html[data-ready]", timeout=120_000)
        yield shown
        assert complaints == []


def point(shown, x, y):
    """Where on the screen a point of the plot is."""
    where = """([x, y]) => {
        const plot = document.getElementById("plot"), box = plot.getBoundingClientRect();
        const { xaxis, yaxis } = plot._fullLayout;
        return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
    }"""
    return shown.evaluate(where, [x, y])


def cells(shown, key):
    """A column of the table."""
    nth = shown.eval_on_selector_all(
        "#table th button", "(all, key) => all.findIndex((b) => b.dataset.key === key)", key
    )
    return shown.locator(f"#table tbody tr > :nth-child({nth + 1})").all_text_contents()


def test_a_reader_clicks_a_point_moves_a_slider_sorts_and_turns_the_page_dark(browser, run):
    run.result = RESULT
    write_trust(run)
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "trial-2.safetensors").touch()
    with opened(browser, run) as shown:
        heading = shown.locator("#detail h2")
        assert heading.inner_text() == "Trial 3"  # the winner, until something is clicked
        shown.mouse.click(*point(shown, 3.0, 60))
        assert heading.inner_text() == "Trial 2"
        assert "60.0 %" in shown.locator("#detail .figures").inner_text()
        assert shown.locator("#detail svg.drawing").get_attribute("aria-label").startswith("Drawing: stem conv")
        export = f"hybridnas export {run.folder} --trial 2 --out exported/trial-2"
        assert shown.locator("#detail code").inner_text() == export

        assert cells(shown, "number") == ["3", "1", "2", "0", "4"]  # by accuracy; what is over the budget is left out
        shown.get_by_label("over budget").check()
        assert set(cells(shown, "number")) == set("012345")
        latency = shown.locator('#table button[data-key="cost0"]')
        latency.click()
        assert cells(shown, "cost0") == ["1.00", "1.00", "2.00", "2.00", "3.00", "4.00"]
        assert shown.locator('th[aria-sort="ascending"]').inner_text() == latency.inner_text()
        latency.press("Enter")
        assert cells(shown, "cost0") == ["4.00", "3.00", "2.00", "2.00", "1.00", "1.00"]

        shown.locator("#limits input").first.fill("100")  # the middle of 1 to 4 ms
        assert shown.locator("#limits output").first.inner_text() == "≤ 2.50 ms"
        assert set(cells(shown, "number")) == set("0145")
        # Trials 0 and 1: the winner, the baseline and trial 2, which is selected, are beyond the bound.
        shown.locator("#plot .points path").nth(2).wait_for(state="detached")
        assert shown.locator("#plot .points path").count() == 2
        shown.locator("#limits input").nth(1).fill("0")  # the fewest multiply-adds
        assert cells(shown, "number") == ["0"]
        shown.locator("#limits input").nth(2).fill("0")  # and the fewest parameters, which others have
        assert "0" not in cells(shown, "number")
        changes = shown.locator("#front").inner_text()
        assert changes.count("depth") == 2 and "stage 2" in changes

        background = "getComputedStyle(document.body).backgroundColor"
        light = shown.evaluate(background)
        shown.locator("#theme").click()
        assert shown.evaluate(background) != light
        assert "Believe it" in shown.locator("#trust").inner_text()
        assert shown.locator("#baselines tbody tr").count() == 1

        shown.select_option("#axis", label="parameters")
        assert "single point" in shown.locator("#front-about").inner_text()


def test_a_click_shows_what_each_stage_takes(browser, tmp_path):
    run = run_of(tmp_path / "run", [trial(i) for i in range(4)], stage_ms=["0.2 0.4 1.2 0.2", "", "", ""])
    with opened(browser, run) as shown:
        words = shown.locator("#detail svg.drawing text")
        assert not [
            text for text in words.all_text_contents() if " ms" in text
        ]  # of the most accurate nothing is known
        shown.mouse.click(*point(shown, 1.0, 50))
        assert [text for text in words.all_text_contents() if " ms" in text] == [
            "0.20 ms · 10 %",
            "0.40 ms · 20 %",
            "1.20 ms · 60 %",
            "0.20 ms · 10 %",
        ]


def test_a_drag_zooms_and_a_double_click_goes_back(browser, run):
    ends = "document.getElementById('plot')._fullLayout.xaxis.range"
    with opened(browser, run) as shown:
        before = shown.evaluate(ends)
        shown.mouse.move(*point(shown, 1.5, 53))
        shown.mouse.down()
        shown.mouse.move(*point(shown, 3.5, 77), steps=5)
        shown.mouse.up()
        until(lambda: shown.evaluate(ends)[0] > before[0])
        assert shown.evaluate(ends) == pytest.approx([1.5, 3.5], abs=0.05)
        shown.mouse.dblclick(*point(shown, 3.3, 74))  # nothing is there
        until(lambda: shown.evaluate(ends)[0] < 1)
        assert shown.evaluate(ends) == pytest.approx(before)


def test_baselines_are_stars_that_can_be_clicked(browser, run):
    run.result = RESULT
    stars = "document.getElementById('plot').data.filter((trace) => trace.marker && trace.marker.symbol === 'star')"
    with opened(browser, run) as shown:
        assert shown.evaluate(f"{stars}.map(({{ x, y }}) => [x, y])") == [[[3.5], [75]]]
        marks = shown.locator("#plot .points path").count()
        shown.mouse.click(*point(shown, 3.5, 75))
        assert shown.locator("#detail h2").inner_text() == "resnet"
        figures = shown.locator("#detail .figures").inner_text()
        assert all(text in figures for text in ("75.0 %", "mean of 2 seeds", "3.50 ms", "3.00 M"))
        # What was selected before has its ring no longer; the star stays.
        until(lambda: shown.locator("#plot .points path").count() == marks - 1)


@pytest.mark.parametrize(("epochs", "said"), [(3, "after 3 epochs"), (None, "")])
def test_a_run_from_before_there_were_rungs_and_seeds(epochs, said, browser, tmp_path):
    result = RESULT | {"confirmed": [{"number": 3, "accuracy": 0.9, "longer": True}]}
    run = run_of(tmp_path / "run", [trial(i) for i in range(4)], result, rungs=None, epochs=epochs)
    run.trials = run.trials.assign(rung=pd.NA)
    with opened(browser, run) as shown:
        figures = shown.locator("#detail .figures").inner_text()
        assert "80.0 %" in figures and "90.0 %" in figures and said in figures and "not trained" not in figures
        assert not {"NaN", "undefined", "null"} & set(re.findall(r"\w+", shown.locator("main").inner_text()))


def test_braces_in_the_name_of_a_folder_stay_in_the_commands(browser, tmp_path):
    run = run_of(tmp_path / "a{}", [trial(0), trial(3)])
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "trial-3.safetensors").touch()
    with opened(browser, run) as shown:
        said = shown.locator("#detail code")
        folder = shlex.quote(str(run.folder))
        assert said.inner_text() == f"hybridnas export {folder} --trial 3 --out exported/trial-3"
        shown.get_by_role("button", name="0", exact=True).press("Enter")
        assert "a{}" in said.inner_text() and ".architecture(0).to_json())" in said.inner_text()


def test_keys_alone_select_along_the_front_and_in_the_table(browser, run):
    with opened(browser, run, color_scheme="dark") as shown:
        assert "No winner yet" in shown.locator("#winner").inner_text()
        assert f"hybridnas trust {run.folder}" in shown.locator("#trust").inner_text()
        background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in re.findall(r"\d+", background)[:3]) < 80  # dark, as the reader has it
        heading = shown.locator("#detail h2")
        assert heading.inner_text() == "Trial 3"  # the most accurate
        shown.get_by_label("Cheaper design of the front").press("Enter")
        assert heading.inner_text() == "Trial 1"
        assert "Its weights are not kept: train it" in shown.locator("#detail").inner_text()
        train = shown.locator("#detail code").inner_text()
        assert (
            "architecture(1).to_json())" in train and "> trial-1.json && hybridnas train trial-1.json --data" in train
        )
        shown.get_by_role("button", name="0", exact=True).press("Enter")
        assert heading.inner_text() == "Trial 0"
        assert shown.locator('#table tr[aria-current="true"]').count() == 1


def test_what_users_wrote_is_text_and_nothing_else(browser, tmp_path):
    folder = tmp_path / EVIL.replace("/", "")
    long = "x" * 3000
    records = [
        trial(0, block=EVIL, name=EVIL, targets=(EVIL,)),
        trial(1, name=long, targets=(EVIL,)),
        trial(2, "failed", reason=WORSE, targets=(EVIL,)),
    ]
    named = [{"name": EVIL, "kind": WORSE, "layout": long}, {"name": long, "kind": EVIL, "layout": EVIL}]
    result = RESULT | {"winner": 1, "baselines": [RESULT["baselines"][0] | row for row in named]}
    run = run_of(folder, records, result, target=EVIL, data=WORSE, space=EVIL, stage_ms=["1 2 3 4", "4 3 2 1", ""])
    write_trust(run)
    with opened(browser, run, [run_of(tmp_path / WORSE.replace("/", ""), records, target=EVIL)]) as shown:
        x, y = point(shown, 1.0, 50)
        shown.mouse.move(x, y)
        shown.locator("#plot .hovertext").wait_for()
        assert EVIL in shown.locator("#plot .hovertext").text_content()
        shown.mouse.click(x, y)
        assert EVIL in shown.locator("#detail").inner_text()
        shown.get_by_role("button", name="2", exact=True).first.click()
        assert WORSE.replace("\u2028", "") in shown.locator("#detail .reason").text_content().replace("\u2028", "")
        assert EVIL in shown.locator("#plot .xtitle").text_content()
        for i in range(2):
            shown.locator("#baselines tbody button").nth(i).click()
        assert shown.locator("img, iframe, main script, [onerror], [onload]").count() == 0
        assert shown.evaluate("document.documentElement.scrollWidth") == 1280  # nothing long bursts the page


def test_only_the_scripts_of_the_page_may_run(browser, run):
    path = run.folder / "page.html"
    path.write_text(page(facts(run)).replace("<main>", "<script>window.entered = true</script><main>"))
    with browser.new_context() as made:
        shown = made.new_page()
        shown.goto(path.as_uri())
        shown.wait_for_selector("html[data-ready]", timeout=120_000)
        assert shown.evaluate("window.entered") is None


@pytest.mark.parametrize(
    "records", [[], [trial(0)], [trial(0, "infeasible"), trial(1, "failed", reason="NaN")], [trial(1, "pruned")]]
)
def test_a_run_with_hardly_anything_in_it_opens(browser, tmp_path, records):
    with opened(browser, run_of(tmp_path / "run", records)) as shown:
        about = shown.locator("#winner").inner_text()
        assert ("Nothing is trained" in about) == all(record.status != "complete" for record in records)
        assert shown.locator("#detail h2").inner_text() == (f"Trial {records[0].number}" if records else "No trial")
