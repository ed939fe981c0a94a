"""Every family leaves torch through torch.export and ONNX, in eval and deploy form, with the same numbers."""

import onnxruntime
import pytest
import torch
from forms import cases, deployed, features, make, randomise
from torch import nn

from hybridnas.blocks import BLOCKS


class Forms(nn.Module):
    """Both forms side by side: exporting costs a second or two, whatever is exported."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.deployed = deployed(module)

    def forward(self, x):
        return self.module(x), self.deployed(x)


def forms(name, resolution, options):
    """One block in both forms, after a pass that leaves position biases kept."""
    module = Forms(randomise(make(name, resolution, depth=1, **options)).eval()).eval()
    x = features(resolution)
    with torch.no_grad():
        return module, x, module(x)


@pytest.mark.parametrize(("name", "options"), cases())
def test_torch_export_gives_the_same_numbers(name, options):
    module, x, expected = forms(name, 7, options)
    program = torch.export.export(module, (x,))
    with torch.no_grad():
        for found, form in zip(program.module()(x), expected, strict=True):
            torch.testing.assert_close(found, form, rtol=1e-5, atol=1e-5)


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
    ("mobilevit", {"patch": 4, "inner_depth": 1}),
    ("global", {"position": "conv", "class_token": True}),
    ("global", {"position": "distance", "num_heads": 3, "value_ratio": 4}),
]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in BLOCKS), *FURTHER], ids=str)
def test_onnx_gives_the_same_numbers(name, options):
    module, x, expected = forms(name, 5, options)
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    for found, form in zip(session.run(None, {image.name: x.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), form, rtol=1e-4, atol=1e-4)
