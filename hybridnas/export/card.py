"""card.md: what a network is, what it was measured to do, where it comes from, and what it must not be taken for."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybridnas.architecture import Architecture, Options
from hybridnas.export.parity import Parity
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.files import write_atomic

FILE = "card.md"
MANY = 30
PACKAGES = ("hybridnas", "torch", "timm")


@dataclass(frozen=True)
class Card:
    """What only whoever trained a network can say of it.

    Attributes:
        origin: A sentence: where the network comes from.
        figures: Measurements by name, in words.
        data: The flag that names what it was trained on, with `fingerprint` where known.
        seed: Of the split.
        retrain: The command that trains it again, `architecture.json` being beside the card.
        limits: Sentences.
        fingerprint: Of the data.
        versions: Of what trained it, by package; empty stands for those that run now.
    """

    origin: str
    figures: Mapping[str, str]
    data: str
    seed: int
    retrain: Sequence[str]
    limits: Sequence[str]
    fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def write_card(
    card: Card,
    folder: Path,
    architecture: Architecture,
    preprocessing: Preprocessing,
    parity: Sequence[Parity] = (),
    about_parity: str = "",
) -> None:
    """Write card.md into a bundle; `parity` has a row for each exported file, `about_parity` says on what."""
    versions = card.versions or {name: importlib.metadata.version(name) for name in PACKAGES}
    names = list(map(_plain, preprocessing.class_names))
    shown = ", ".join(names[:MANY]) + (f" and {len(names) - MANY} others" if len(names) > MANY else "")
    size = architecture.image_size
    mean, std = (", ".join(map(str, values)) for values in (preprocessing.mean, preprocessing.std))
    grey = ", as grey" if len(preprocessing.mean) == 1 else ""
    fingerprint = f", fingerprint {card.fingerprint}" if card.fingerprint else ""
    agreed = [each for each in parity if not each.problem]
    has_code = all(each.format != "bundle" for each in parity if each.problem)
    text = f"""\
# {architecture.layout or "Network"}: {architecture.families or "stem and head"}, {size} px

An image classifier of {len(names)} classes. {card.origin}

{drawing(architecture, len(names))}

## Figures

{_table(("", ""), [(_plain(name), _plain(value)) for name, value in card.figures.items()])}

## Data

{_plain(card.data)}{fingerprint}; seed {card.seed}. {len(names)} classes: {shown} (`labels.json`).

Images: the shorter side to {size} px (bilinear, antialiased), the longer cropped centrally{grey}; mean {mean} and
standard deviation {std} of each channel in 0..255 (`preprocessing.json`).

{_use(len(names), agreed, has_code)}## Train it again

```sh
{shlex.join(card.retrain)}
```

## Limits

{chr(10).join(f"- {sentence}" for sentence in card.limits)}
"""
    if parity:
        rows = [(each.format, f"`{each.file}`", *each.figures()) for each in agreed]
        heads = ("format", "file", "MB", "largest difference", "same class", "p50 ms", "p95 ms")
        text += f"\n## Files\n\n{_table(heads, rows)}\n\n{about_parity}\n"
    made = _plain(", ".join(f"{name} {version}" for name, version in versions.items()))
    text += f"\n## Versions and licence\n\n{made}. The weights are yours as far as the data are."
    text += " The code in model.py is hybridnas', licence Apache-2.0.\n" if has_code else "\n"
    write_atomic(folder / FILE, text.encode("utf-8", "backslashreplace"))  # the name of a folder need not be text


def _use(num_classes: int, agreed: Sequence[Parity], has_code: bool) -> str:
    """How to use what is there; nothing where no command takes it."""
    if has_code:
        return f"""\
## Use

```sh
hybridnas predict . IMAGE...      # or, without hybridnas: python model.py IMAGE...
```

```python
from model import model, preprocess, read_image   # model.py needs torch and timm

scores = model(preprocess(read_image("photo.jpg")[None]))   # (1, {num_classes}); model.deploy() is the fused form
```

"""
    if any(each.format in ("onnx", "openvino") for each in agreed):
        return "## Use\n\n```sh\nhybridnas predict . IMAGE...\n```\n\n"
    return ""


def drawing(architecture: Architecture, num_classes: int) -> str:
    """The network as a table, a row for its stem, each stage and the head, with the maps that leave them."""
    stem, head = architecture.stem, architecture.head
    side, *others = architecture.resolutions
    rows = [("stem", _said(stem.type, stem.options), "", f"{stem.width} x {side} x {side}")]
    for i, (stage, side) in enumerate(zip(architecture.stages, others, strict=True), 1):
        body = f"{stage.depth} x {_said(stage.block, stage.options)}" if stage.depth else ""
        transition = _said(stage.transition.type, stage.transition.options)
        rows.append((f"stage {i}", transition, body, f"{stage.width} x {side} x {side}"))
    rows.append(("head", _said(head.type, head.options), "", str(num_classes)))
    return _table(("", "transition", "blocks", "gives"), rows)


def _said(name: str, options: Options) -> str:
    said = ", ".join(f"{option} {value}" for option, value in options.items())
    return f"{name} ({said})" if said else name


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _plain(text: str) -> str:
    """A text of a user's inside a paragraph: one line, and nothing that Markdown or HTML would take for markup."""
    line = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|&" else c for c in line)
