"""`model.py`: a network as one file of code that needs torch and timm, and nothing of this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn

from hybridnas import __version__
from hybridnas.architecture import Value
from hybridnas.blocks import BLOCKS
from hybridnas.blocks.fuse import fuse
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS
from hybridnas.export.preprocessing import Preprocessing, pixels
from hybridnas.export.source import LINE, Import, import_lines, source_of
from hybridnas.model import HybridNet, HybridStage, stem_stride

#: What the template itself takes from elsewhere.
IMPORTS = {
    Import("copy"),
    Import("sys"),
    Import("torch"),
    Import("pathlib", "Path"),
    Import("PIL", "Image"),
    Import("safetensors.torch", "load_file"),
    Import("torch", "Tensor"),
    Import("torch", "nn"),
}

TEMPLATE = '''"""An image classifier, {families}, in one file: torch and timm are all it needs.

    python model.py IMAGE...                    says what is on images
    from model import model, preprocess         `model` is ready to classify; `preprocess` prepares images for it

Its weights are in weights.safetensors beside it. Written by hybridnas {version} from the architecture {key}; the
classes below `Network` are hybridnas', less what refuses wrong arguments. Licence: Apache-2.0.
"""

from __future__ import annotations

{imports}

HERE = Path(__file__).parent
IMAGE_SIZE = {image_size}
CLASS_NAMES = {class_names}
MEAN = {mean}  # of each channel, in 0..255
STD = {std}


class Network(nn.Module):
    """Images (B, 3, {image_size}, {image_size}), as `preprocess` gives them, to scores (B, {num_classes})."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = {stem}
        self.stages = nn.Sequential(
{stages}
        )
        self.head = {head}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))

    def deploy(self) -> Network:
        """A copy in the form that was timed: training branches fused, batch norm folded, no gradients."""
        model = copy.deepcopy(self).eval()
        fuse(model)
        return model.eval().requires_grad_(False)


def read_image(path: str | Path) -> Tensor:
    """An image file as uint8 (3, {image_size}, {image_size})."""
    with Image.open(path) as image:
        return torch.from_numpy(pixels(image, IMAGE_SIZE, grey=len(MEAN) == 1))


def preprocess(images: Tensor) -> Tensor:
    """uint8 (B, 3, {image_size}, {image_size}) to what the network was trained on."""
    return (images.float() - torch.tensor(MEAN).view(1, -1, 1, 1)) / torch.tensor(STD).view(1, -1, 1, 1)


def load(weights: str | Path = HERE / "weights.safetensors") -> Network:
    """The network with trained weights, in eval mode."""
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()


{parts}


model = load()

if __name__ == "__main__":
    for path in sys.argv[1:]:
        with torch.inference_mode():
            probabilities = model(preprocess(read_image(path)[None])).softmax(dim=-1)[0]
        best = probabilities.topk(min(3, len(CLASS_NAMES)))
        print(path, *(f"{{CLASS_NAMES[i]}} {{p:.1%}}" for p, i in zip(*map(Tensor.tolist, best))), sep="  ")
'''


def standalone(model: HybridNet, preprocessing: Preprocessing) -> str:
    """The text of `model.py` for a network: its own construction in words, and the classes that it is made of.

    Its parameters have the same names, so that the network's weights are the file's. A class name is a string
    with all that is not ASCII escaped, and so cannot become code.
    """
    architecture, num_classes = model.architecture, model.num_classes
    size, stem, head = architecture.image_size, architecture.stem, architecture.head
    parts: list[Callable[..., object]] = [HybridStage, STEMS[stem.type], HEADS[head.type], fuse, pixels]
    stages = []
    width, resolution = stem.width, math.ceil(size / stem_stride(architecture))
    for stage in architecture.stages:
        change = stage.transition
        numbers = {"in_width": width, "width": stage.width, "stride": change.stride, "resolution": resolution}
        transition = _call(TRANSITIONS[change.type], numbers | dict(change.options), indent=16)
        parts.append(TRANSITIONS[change.type])
        width, resolution = stage.width, math.ceil(resolution / change.stride)
        body = f"{' ' * 16}nn.Identity()"
        if stage.depth:
            numbers = {"width": width, "depth": stage.depth, "resolution": resolution}
            body = _call(BLOCKS[stage.block], numbers | dict(stage.options), indent=16)
            parts.append(BLOCKS[stage.block])
        stages.append(f"{' ' * 12}HybridStage(\n{transition},\n{body},\n{' ' * 12}),")
    begin = {"width": stem.width, "image_size": size, "in_chans": model.in_chans}
    source = source_of(*parts)
    return TEMPLATE.format(
        families=architecture.families or "without blocks",
        version=__version__,
        key=architecture.key,
        imports=import_lines(source.imports | IMPORTS),
        image_size=size,
        class_names=_listed([_quoted(name) for name in preprocessing.class_names], len("CLASS_NAMES = ")),
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        num_classes=num_classes,
        stem=_call(STEMS[stem.type], begin | dict(stem.options), 8, "self.stem = ").lstrip(),
        stages="\n".join(stages),
        head=_call(
            HEADS[head.type], {"width": width, "num_classes": num_classes} | dict(head.options), 8, "self.head = "
        ).lstrip(),
        parts=source.text,
    )


def _call(part: type[nn.Module], arguments: Mapping[str, Value], indent: int, before: str = "") -> str:
    """The call that makes a part, indented, laid out as formatters do."""
    said = [f"{name}={_literal(value)}" for name, value in arguments.items()]
    line = f"{part.__name__}({', '.join(said)})"
    gap = " " * indent
    if indent + len(before) + len(line) < LINE:  # a comma may follow
        return gap + line
    inside = f"{gap}    {', '.join(said)}"
    if len(inside) > LINE:
        inside = "\n".join(f"{gap}    {each}," for each in said)
    return f"{gap}{part.__name__}(\n{inside}\n{gap})"


def _literal(value: Value) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """A text as Python says it in ASCII: whatever stands in it, it is nothing but text."""
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def _listed(items: list[str], before: int) -> str:
    line = f"[{', '.join(items)}]"
    return line if before + len(line) <= LINE else "\n    ".join(["[", *(f"{item}," for item in items)]) + "\n]"
