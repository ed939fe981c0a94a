"""Every family leaves torch through torch.export and ONNX, in eval and deploy form, with the same numbers."""

import onnxruntime
import pytest
import torch
from forms import WIDTH, cases, deployed, features, make, randomise
from torch import nn

from hybridnas.blocks import BLOCKS
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS


class Forms(nn.Module):
    """Both forms side by side: exporting costs a second or two, whatever is exported."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.deployed = deployed(module)

    def forward(self, x):
        return self.module(x), self.deployed(x)


def in_both_forms(part, x):
    """The part and what its forms compute; the pass leaves position biases kept."""
    module = Forms(randomise(part).eval()).eval()
    with torch.no_grad():
        return module, module(x)


def assert_torch_exports(part, x):
    module, expected = in_both_forms(part, x)
    program = torch.export.export(module, (x,))
    with torch.no_grad():
        for found, form in zip(program.module()(x), expected, strict=True):
            torch.testing.assert_close(found, form, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), cases())
def test_torch_export_gives_the_same_numbers(name, options):
    assert_torch_exports(make(name, 7, depth=1, **options), features(7))


@pytest.mark.parametrize("name", STEMS)
def test_torch_export_of_a_stem(name):
    assert_torch_exports(STEMS[name](16, 33), torch.randn(2, 3, 33, 33))


@pytest.mark.parametrize("name", TRANSITIONS)
def test_torch_export_of_a_transition(name):
    width, stride = (WIDTH, 1) if name == "none" else (48, 2)
    assert_torch_exports(TRANSITIONS[name](WIDTH, width, stride, 7), features(7))


@pytest.mark.parametrize("x", [features(4), torch.randn(2, 17, WIDTH)], ids=["map", "tokens"])
@pytest.mark.parametrize("name", HEADS)
def test_torch_export_of_a_head(name, x):
    assert_torch_exports(HEADS[name](WIDTH, 10), x)


@pytest.mark.parametrize("name", ["window", "global", "levit", "parallel"])
def test_an_exported_network_holds_the_table_not_what_was_kept(name):
    """Other weights in the exported program give other biases."""
    module = randomise(make(name, 7, depth=1)).eval()
    x = features()
    with torch.no_grad():
        module(x)
        program = torch.export.export(module, (x,))
        other = randomise(make(name, 7, depth=1), seed=9).eval()
        exported = program.module()
        exported.load_state_dict(other.state_dict(), strict=False)  # what is no weight is a buffer of the program
        torch.testing.assert_close(exported(x), other(x), rtol=1e-5, atol=1e-5)


# Where no family's defaults go: padding and masks, resizing, a token ahead of the map, wide values.
FURTHER = [
    ("window", {"window": 4}),
    ("window", {"window": 4, "head_dim": 8}),
    ("global", {"head_dim": 8}),
    ("mobilevit", {"patch": 4, "inner_depth": 1}),
    ("global", {"position": "conv", "class_token": True}),
    ("global", {"position": "distance", "num_heads": 3, "value_ratio": 4}),
]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in BLOCKS), *FURTHER], ids=str)
def test_onnx_gives_the_same_numbers(name, options):
    x = features(5)
    module, expected = in_both_forms(make(name, 5, depth=1, **options), x)
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    for found, form in zip(session.run(None, {image.name: x.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), form, rtol=1e-4, atol=1e-4)
