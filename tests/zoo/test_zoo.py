"""The designs of the literature: every file is read, builds, and counts what timm's model and the source count."""

import dataclasses
import re
from pathlib import Path

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import hybridnas.zoo
from hybridnas import build, zoo
from hybridnas.architecture import Transition
from hybridnas.errors import ArchitectureError, ZooError
from hybridnas.model import num_params

NAMES = zoo.names()
IN_TIMM = [name for name in NAMES if zoo.entry(name).timm]
PROMISED = (
    "resnet50 mobilenetv2_100 mobilenetv3_large_100 efficientnet_b0 convnext_tiny vit_base_patch16_224 "
    "swin_tiny_patch4_window7_224 coatnet_0_rw_224 mobilevit_s fastvit_t8 efficientformer_l1 efficientvit_b1 levit_128 "
    "vit_small_patch14_dinov2 edgevit_xxs mixformer_b1 convnext_base swin_base_patch4_window7_224 "
    "vit_large_patch16_224 coatnet_2_rw_224 efficientvit_b2 fastvit_sa12 levit_256"
).split()


def counted(model, image_size):
    """Multiply-adds, as torch counts them."""
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    return counter.get_total_flops() / 2


@pytest.fixture(scope="module")
def ours():
    """Of every design: parameters and multiply-adds."""
    with torch.device("meta"):
        models = {name: build(zoo.load(name), 0 if name.endswith("dinov2") else 1000) for name in NAMES}
    return {name: (num_params(model), counted(model, zoo.load(name).image_size)) for name, model in models.items()}


def test_every_promised_design_is_there():
    assert set(NAMES) == set(PROMISED)


@pytest.mark.parametrize("name", IN_TIMM)
def test_parameters_and_macs_are_those_of_timm(name, ours):
    with torch.device("meta"):
        theirs = zoo.timm_model(name)
    params, macs = ours[name]
    assert params == pytest.approx(num_params(theirs), rel=0.01)
    assert macs == pytest.approx(counted(theirs, zoo.load(name).image_size), rel=0.02)


@pytest.mark.parametrize(("name", "params_m", "macs_g"), [("edgevit_xxs", 4.1, 0.6), ("mixformer_b1", 8, 0.7)])
def test_designs_that_timm_lacks_round_to_their_sources_figures(name, params_m, macs_g, ours):
    params, macs = ours[name]
    published = zoo.entry(name).published
    assert (published.params, published.macs) == (round(params_m * 1e6), round(macs_g * 1e9))
    digits = 1 if isinstance(params_m, float) else 0
    assert round(params / 1e6, digits) == params_m
    assert round(macs / 1e9, 1) == macs_g


def test_edgevit_has_the_parameters_of_the_authors_code(ours):
    """Added up layer by layer from github.com/saic-fi/edgevit."""
    assert ours["edgevit_xxs"][0] == 4_067_704


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_are_those_of_the_design(name, ours):
    """Within what rounding, fusion and counting conventions explain."""
    entry, (params, macs) = zoo.entry(name), ours[name]
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", entry.source)
    assert entry.published.params == pytest.approx(params, rel=0.13)
    assert entry.published.macs == pytest.approx(macs, rel=0.09)
    assert 70 < entry.published.top1 < 90
    assert entry.published.resolution == zoo.load(name).image_size


@pytest.mark.parametrize("name", NAMES)
def test_a_design_with_any_stage_changed_still_builds_and_runs(name):
    design = zoo.load(name)
    changed = [[dataclasses.replace(stage, depth=stage.depth + 1) for stage in design.stages]]
    for i, stage in enumerate(design.stages):
        other = dataclasses.replace(stage, block="convnext", options={}, depth=1)
        changed.append([*design.stages[:i], other, *design.stages[i + 1 :]])
    for stages in changed:
        with torch.device("meta"):
            model = build(dataclasses.replace(design, stages=tuple(stages)), 10).eval()
            assert model(torch.zeros(1, 3, design.image_size, design.image_size)).shape == (1, 10)


@pytest.mark.parametrize("name", NAMES)
def test_a_design_survives_json(name):
    design = zoo.load(name)
    assert type(design).from_json(design.to_json()) == design


def test_a_class_token_in_an_inner_stage_is_refused():
    design = zoo.load("vit_base_patch16_224")
    (stage,) = design.stages
    more = dataclasses.replace(stage, transition=Transition("none", 1), block="convnext", options={})
    with torch.device("meta"), pytest.raises(ArchitectureError, match="stage 1: class_token is for the last stage"):
        build(dataclasses.replace(design, stages=(stage, more)))


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet5", "resnet50"), ("coatnet_0", "coatnet_0_rw_224"), ("swin_tiny", "swin_tiny_patch4_window7_224")],
)
def test_an_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(ZooError, match=near):
        zoo.load(name)


def test_a_name_like_no_other_lists_them_all():
    with pytest.raises(ZooError, match=", ".join(NAMES)):
        zoo.load("?")


def test_a_name_is_no_path():
    with pytest.raises(ZooError):
        zoo.load("../designs/resnet50")


def test_the_readme_has_a_row_for_every_design(ours):
    readme = (Path(hybridnas.zoo.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \|(.*)$", readme, re.MULTILINE))
    assert set(NAMES) <= set(rows)
    for name in NAMES:
        cells = [cell.strip() for cell in rows[name].split("|")]
        params, macs = ours[name]
        assert cells[2] == f"{params / 1e6:.2f}"
        assert cells[5] == f"{macs / 1e9:.3f}"


def test_timm_knows_the_names_that_we_say_it_knows():
    models = {name: timm.model_entrypoint(name) for name in NAMES if timm.is_model(name)}
    own = {name for name, made in models.items() if made.__module__ == "hybridnas.timm_models"}
    assert models.keys() - own == set(IN_TIMM)
