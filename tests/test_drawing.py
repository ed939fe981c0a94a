"""What a notebook shows of an architecture."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from hybridnas import Architecture, Head, Stage, Stem, Transition, build, zoo
from hybridnas.architecture import STEM_STRIDES
from hybridnas.blocks.stems import STEMS
from hybridnas.drawing import MOST
from hybridnas.palette import FAMILY_COLOURS, luminance, text_on

STAGES = (
    Stage(Transition("none", stride=1), "mbconv", 2, 16),
    Stage(Transition("conv"), "mbconv", 0, 24),
    Stage(Transition("patch"), "global", 3, 32, {"head_dim": 16}),
)
HYBRID = Architecture(33, Stem("conv", 16), STAGES)


def drawn(architecture: Architecture) -> ElementTree.Element:
    return ElementTree.fromstring(architecture._repr_html_())


def texts(page: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in page.iter("text")]


def slabs(page: ElementTree.Element, colour: str) -> list[float]:
    """Heights, from left to right; the labels' pills have other corners."""
    found = [node for node in page.iter("rect") if node.get("fill") == colour and node.get("rx") == "1.5"]
    assert sorted(found, key=lambda node: float(node.get("x", 0))) == found
    return [float(node.get("height", 0)) for node in found]


def test_it_says_families_depths_widths_resolutions_and_strides():
    words = texts(drawn(HYBRID))
    for each in ("stem conv", "mbconv × 2", "global × 3", "16 ch", "24 ch", "32 ch", "17 px", "9 px", "5 px"):
        assert each in words
    assert "conv ↓2" in words and "patch ↓2" in words and "head linear" in words
    assert not any("none" in each for each in words)


def test_a_block_is_a_slab_in_the_colour_of_its_family_lower_where_the_map_is_smaller():
    page = drawn(HYBRID)
    convolutions, attentions = slabs(page, FAMILY_COLOURS["mbconv"]), slabs(page, FAMILY_COLOURS["global"])
    assert len(convolutions) == 2 and len(attentions) == 3
    assert len({*convolutions}) == len({*attentions}) == 1 and attentions[0] < convolutions[0]


@pytest.mark.parametrize("name", zoo.names())
def test_every_design_can_be_drawn(name):
    design = zoo.load(name)
    page = drawn(design)
    assert sum(len(slabs(page, colour)) for colour in FAMILY_COLOURS.values()) == sum(s.depth for s in design.stages)
    left, _, width, _ = map(float, page.find("svg").get("viewBox").split())  # type: ignore[union-attr]
    for node in page.iter("rect"):
        x, breadth = float(node.get("x", 0)), float(node.get("width", 0))
        assert left <= x and x + breadth <= width
    assert all(float(node.get("x", 0)) < width for node in page.iter("text"))


def test_texts_from_files_are_escaped_and_unknown_parts_are_grey():
    evil = '"><script>alert(1)</script>'
    stage = Stage(Transition(evil), evil, 1, 16, {evil: evil})
    strange = Architecture(32, Stem(evil, 8, {"act": evil}), (stage,), Head(evil, {"norm": evil}))
    page = drawn(strange)
    assert not [*page.iter("script")] and f"{evil} × 1" in texts(page)
    assert "<script" not in strange._repr_html_()
    assert strange.resolutions == (None, None) and not any(" px" in each for each in texts(page))


def test_a_deep_stage_says_its_depth_and_is_not_drawn_to_the_end():
    deep = replace(HYBRID, stages=(replace(STAGES[0], depth=10**6),))
    page = drawn(deep)
    assert len(slabs(page, FAMILY_COLOURS["mbconv"])) == MOST and "mbconv × 1000000" in texts(page)


def test_nothing_is_fetched_or_run():
    html = zoo.load("coatnet_0_rw_224")._repr_html_()
    assert not re.search(r"script|href|url\(|src=|http", html) and len(html) < 10_000


def test_the_strides_of_stems_are_those_of_the_parts():
    assert STEM_STRIDES == {name: getattr(part, "stride") for name, part in STEMS.items()}  # noqa: B009


def test_resolutions_are_those_of_the_network():
    sizes = []
    model = build(HYBRID, num_classes=2).eval()
    for part in (model.stem, *model.stages):
        part.register_forward_hook(lambda part, given, out: sizes.append(out.shape[-1]))
    model(torch.zeros(1, 3, 33, 33))
    assert HYBRID.resolutions == tuple(sizes) == (17, 17, 9, 5)


@pytest.mark.parametrize("colour", [*FAMILY_COLOURS.values(), "#000000", "#FFFFFF", "#777777"])
def test_text_on_a_colour_can_be_read(colour):
    light, dark = sorted((luminance(colour), luminance(text_on(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, success criterion 1.4.3


def test_luminance_of_known_colours():
    """The primaries' shares of white, and grey 119, whose contrast with white is known to be 4.48."""
    assert [luminance(c) for c in ("#FF0000", "#00FF00", "#0000FF")] == pytest.approx([0.2126, 0.7152, 0.0722])
    assert 1.05 / (luminance("#777777") + 0.05) == pytest.approx(4.48, abs=0.005)
