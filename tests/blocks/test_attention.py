"""The attention families against slow references that say in words which position may see which."""

import math

import pytest
import torch

from hybridnas.blocks.attention import SelfAttention
from hybridnas.blocks.global_attention import GlobalAttention
from hybridnas.blocks.window import ShiftedWindow, WindowAttention

WIDTH = 12
HEAD_DIM = 4


def randomised(module):
    """Every parameter of size one, so that biases matter as much as content."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1] if parameter.ndim > 1 else 1))
        for name, parameter in module.named_parameters():
            if name.endswith("relative_position_bias_table"):
                parameter.copy_(torch.randn(parameter.shape))
    return module.eval()


def reference_attention(x, attention, side, seen_from):
    """Plain attention, position by position. x: (H, W, C); `seen_from(y, x)` gives [((y, x), (dy, dx)), ...].

    The bias table has a row for each offset query - key, dy first: row (dy + side - 1) * (2 * side - 1) + dx + side - 1
    (Swin's layout).
    """
    table = attention.relative.relative_position_bias_table
    heads, head_dim = attention.num_heads, attention.head_dim
    qkv = attention.qkv(x)
    query, key, value = qkv.split(WIDTH, dim=-1)
    out = torch.empty_like(x)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            seen = seen_from(row, column)
            mixed = []
            for head in range(heads):
                channels = slice(head * head_dim, (head + 1) * head_dim)
                scores = torch.stack(
                    [
                        query[row, column, channels] @ key[other][channels] / math.sqrt(head_dim)
                        + table[(dy + side - 1) * (2 * side - 1) + dx + side - 1, head]
                        for other, (dy, dx) in seen
                    ]
                )
                weights = scores.softmax(0)
                mixed.append(sum(w * value[other][channels] for w, (other, _) in zip(weights, seen, strict=True)))
            out[row, column] = attention.proj(torch.cat(mixed))
    return out


def windows_along_a_side(resolution, window, shift):
    """The runs of neighbouring positions that share a window: [(positions, ...), ...].

    Windows start at `shift` and go on to the padded end; what lies before the first is a run of its own.
    """
    padded = math.ceil(resolution / window) * window
    starts = [0, *range(shift, padded, window)] if shift else range(0, padded, window)
    ends = [*list(starts)[1:], padded]
    return [[p for p in range(start, end) if p < resolution] for start, end in zip(starts, ends, strict=True)]


def seen_in_window(resolution, window, shift):
    runs = windows_along_a_side(resolution, window, shift)

    def seen_from(row, column):
        (rows,) = [run for run in runs if row in run]
        (columns,) = [run for run in runs if column in run]
        return [((y, x), (row - y, column - x)) for y in rows for x in columns]

    return seen_from


@pytest.mark.parametrize(
    ("resolution", "window", "shift", "runs"),
    [
        (8, 4, 0, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (8, 4, 2, [[0, 1], [2, 3, 4, 5], [6, 7]]),
        (7, 4, 0, [[0, 1, 2, 3], [4, 5, 6]]),
        (7, 3, 1, [[0], [1, 2, 3], [4, 5, 6], []]),
    ],
)
def test_the_reference_cuts_windows_as_the_paper_draws_them(resolution, window, shift, runs):
    assert windows_along_a_side(resolution, window, shift) == runs


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("resolution", "window"), [(8, 4), (6, 3), (7, 4), (5, 4), (7, 3), (8, 3), (9, 5), (3, 2)])
def test_window_attention_is_the_slow_reference(resolution, window, shifted):
    shift = window // 2 if shifted else 0
    module = randomised(ShiftedWindow(WIDTH, HEAD_DIM, resolution, window, shift))
    x = torch.randn(2, resolution, resolution, WIDTH)
    with torch.no_grad():
        found = module(x)
        seen_from = seen_in_window(resolution, window, shift)
        expected = torch.stack([reference_attention(one, module.attention, window, seen_from) for one in x])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("resolution", [1, 4, 5])
def test_global_attention_is_the_slow_reference(resolution):
    attention = randomised(SelfAttention(WIDTH, HEAD_DIM, resolution))
    x = torch.randn(2, resolution, resolution, WIDTH)

    def seen_from(row, column):
        positions = [(y, x) for y in range(resolution) for x in range(resolution)]
        return [(other, (row - other[0], column - other[1])) for other in positions]

    with torch.no_grad():
        found = attention(x.flatten(1, 2).unsqueeze(1)).view_as(x)
        expected = torch.stack([reference_attention(one, attention, resolution, seen_from) for one in x])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_global_family_runs_its_blocks_over_rows_then_columns():
    family = randomised(GlobalAttention(WIDTH, 2, 4, head_dim=HEAD_DIM))
    x = torch.randn(2, WIDTH, 4, 4)
    with torch.no_grad():
        tokens = torch.stack([x[:, :, i // 4, i % 4] for i in range(16)], dim=1).unsqueeze(1)
        for block in family.blocks:
            tokens = tokens + block.mix(block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        found = family(x)
    for i in range(16):
        torch.testing.assert_close(found[:, :, i // 4, i % 4], tokens[:, 0, i])


@pytest.mark.parametrize("window", [5, 9])
def test_a_window_over_the_whole_map_is_global_attention(window):
    windowed = WindowAttention(WIDTH, 2, 5, window=window, head_dim=HEAD_DIM)
    everywhere = randomised(GlobalAttention(WIDTH, 2, 5, head_dim=HEAD_DIM))
    weights = {name.replace(".mix.", ".mix.attention."): value for name, value in everywhere.state_dict().items()}
    windowed.load_state_dict(weights)
    x = torch.randn(2, WIDTH, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(windowed.eval()(x), everywhere(x), rtol=1e-5, atol=1e-5)


def test_every_second_block_shifts_by_half_a_window():
    assert [block.mix.shift for block in WindowAttention(WIDTH, 4, 14, window=7, head_dim=HEAD_DIM).blocks] == [
        0,
        3,
        0,
        3,
    ]
    assert [block.mix.shift for block in WindowAttention(WIDTH, 2, 7, window=7, head_dim=HEAD_DIM).blocks] == [0, 0]


def test_the_shift_carries_information_across_windows():
    """One block stays inside its windows; two reach beyond them (Swin, figure 2)."""
    x = torch.randn(1, WIDTH, 8, 8)
    nudged = x.clone()
    nudged[:, 0, 0, 3] += 5.0  # in the first window of four; one channel, since the norm takes away what all share
    changed = {}
    for depth in (1, 2):
        module = randomised(WindowAttention(WIDTH, depth, 8, window=4, head_dim=HEAD_DIM))
        with torch.no_grad():
            changed[depth] = (module(nudged) != module(x)).any(1)[0]
    assert changed[1][:4, :4].all()
    assert not changed[1][4:].any() and not changed[1][:, 4:].any()
    assert changed[2][:4, 4:6].all()


@pytest.mark.parametrize("family", [WindowAttention, GlobalAttention])
def test_width_must_be_a_multiple_of_head_dim(family):
    with pytest.raises(ValueError, match="width 12 is not a multiple of head_dim 8"):
        family(12, 1, 4, head_dim=8)


@pytest.mark.parametrize("window", [1, 0, -3])
def test_a_window_of_one_is_refused(window):
    with pytest.raises(ValueError, match=f"at least 2, got {window}"):
        WindowAttention(WIDTH, 1, 8, window=window, head_dim=HEAD_DIM)
