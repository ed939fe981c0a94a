"""The attention families against slow references that say in words which position may see which."""

import math

import pytest
import torch
from forms import randomise

from hybridnas.blocks.attention import DistanceBias, RelativeBias, SelfAttention
from hybridnas.blocks.global_attention import GlobalAttention
from hybridnas.blocks.levit import LevitAttention
from hybridnas.blocks.window import ShiftedWindow, WindowAttention

WIDTH = 12
HEAD_DIM = 4
HEADS = 3


def relative_row(side):
    """Row of an offset query - key in the table, dy first (Swin's layout)."""
    return lambda dy, dx: (dy + side - 1) * (2 * side - 1) + dx + side - 1


def distance_row(side):
    """Row of an absolute offset in the table (LeViT's layout)."""
    return lambda dy, dx: abs(dy) * side + abs(dx)


def attended(query, keys, values, biases):
    """What one query gathers: the values, weighed by the softmax of its products with the keys."""
    scores = torch.stack([query @ key / math.sqrt(len(query)) + bias for key, bias in zip(keys, biases, strict=True)])
    return sum(weight * value for weight, value in zip(scores.softmax(0), values, strict=True))


def reference_attention(x, attention, row_of, seen_from):
    """Plain attention, position by position: (H, W, C) to the same.

    `seen_from(y, x)` lists the positions that (y, x) sees, `row_of(dy, dx)` is the row of the bias table.
    """
    keys_width, values_width = attention.num_heads * attention.head_dim, attention.num_heads * attention.value_dim
    query, key, value = attention.qkv(x).split([keys_width, keys_width, values_width], dim=-1)
    out = torch.empty(*x.shape[:2], attention.proj.out_features)
    for y in range(x.shape[0]):
        for x_ in range(x.shape[1]):
            seen = seen_from(y, x_)
            mixed = []
            for head in range(attention.num_heads):
                k = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
                v = slice(head * attention.value_dim, (head + 1) * attention.value_dim)
                biases = [attention.bias.table[row_of(y - other[0], x_ - other[1]), head] for other in seen]
                mixed.append(
                    attended(query[y, x_, k], [key[at][k] for at in seen], [value[at][v] for at in seen], biases)
                )
            out[y, x_] = attention.proj(torch.cat(mixed))
    return out


def everywhere(side):
    return lambda y, x: [(row, column) for row in range(side) for column in range(side)]


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
        return [(y, x) for y in rows for x in columns]

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
    module = randomise(ShiftedWindow(WIDTH, HEAD_DIM, resolution, window, shift)).eval()
    x = torch.randn(2, resolution, resolution, WIDTH)
    with torch.no_grad():
        found = module(x)
        seen_from = seen_in_window(resolution, window, shift)
        expected = torch.stack(
            [reference_attention(one, module.attention, relative_row(window), seen_from) for one in x]
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bias", "row_of", "value_dim"),
    [
        (RelativeBias, relative_row, HEAD_DIM),
        (DistanceBias, distance_row, HEAD_DIM),
        (DistanceBias, distance_row, 7),
    ],
    ids=["relative", "distance", "distance with wide values"],
)
@pytest.mark.parametrize("resolution", [1, 4, 5])
def test_global_attention_is_the_slow_reference(resolution, bias, row_of, value_dim):
    made = SelfAttention(WIDTH, HEADS, HEAD_DIM, bias(resolution, HEADS), value_dim=value_dim, out_width=10)
    attention = randomise(made).eval()
    x = torch.randn(2, resolution, resolution, WIDTH)
    with torch.no_grad():
        found = attention(x.flatten(1, 2).unsqueeze(1)).view(2, resolution, resolution, 10)
        seen_from = everywhere(resolution)
        expected = torch.stack([reference_attention(one, attention, row_of(resolution), seen_from) for one in x])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (3, 12)])
def test_windows_on_a_map_of_another_size_see_what_they_should(height, width, shift):
    module = randomise(ShiftedWindow(WIDTH, HEAD_DIM, 8, 4, shift)).eval()

    def window(place):
        return (place[0] - shift) // 4, (place[1] - shift) // 4

    x = torch.randn(1, height, width, WIDTH)
    with torch.no_grad():
        before = module(x)
        for place in [(0, 0), (height - 1, width - 1), (2, 5)]:
            nudged = x.clone()
            nudged[0, place[0], place[1]] += torch.randn(WIDTH)
            changed = (module(nudged) != before).any(-1)[0]
            expected = [[window((y, x)) == window(place) for x in range(width)] for y in range(height)]
            assert changed.tolist() == expected


def test_attention_without_bias_sees_no_positions():
    """Tokens in another order give the same results in that order."""
    attention = randomise(SelfAttention(WIDTH, HEADS, HEAD_DIM, None)).eval()
    x, order = torch.randn(2, 1, 9, WIDTH), torch.randperm(9)
    with torch.no_grad():
        torch.testing.assert_close(attention(x[:, :, order]), attention(x)[:, :, order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "bias", "row_of"),
    [
        ({"head_dim": HEAD_DIM}, "relative", relative_row),
        ({"head_dim": HEAD_DIM, "num_heads": 2, "value_ratio": 2.0, "layer_scale": True}, "distance", distance_row),
    ],
)
def test_global_family_is_the_slow_reference_block_by_block(options, bias, row_of):
    family = randomise(GlobalAttention(WIDTH, 2, 4, position=bias, **options)).eval()
    x = torch.randn(1, WIDTH, 4, 4)
    with torch.no_grad():
        at = x[0].permute(1, 2, 0)  # (H, W, C)
        for block in family.blocks:
            at = at + block.scale1(reference_attention(block.norm1(at), block.mix, row_of(4), everywhere(4)))
            at = at + block.scale2(block.mlp(block.norm2(at)))
        torch.testing.assert_close(family(x)[0].permute(1, 2, 0), at, rtol=1e-5, atol=1e-5)


def test_a_class_token_goes_ahead_of_the_map_row_by_row():
    family = randomise(GlobalAttention(WIDTH, 1, 3, position="none", class_token=True, head_dim=HEAD_DIM)).eval()
    x = torch.randn(2, WIDTH, 3, 3)
    with torch.no_grad():
        tokens = torch.stack([family.class_token[0, 0].expand(2, -1), *(x[:, :, i // 3, i % 3] for i in range(9))], 1)
        torch.testing.assert_close(family(x), family.blocks(tokens.unsqueeze(1)).squeeze(1))


def test_the_position_convolution_stands_before_all_blocks_and_adds_to_the_map():
    family = randomise(GlobalAttention(WIDTH, 2, 4, position="conv", head_dim=HEAD_DIM)).eval()
    plain = GlobalAttention(WIDTH, 2, 4, position="none", head_dim=HEAD_DIM).eval()
    plain.load_state_dict({key: value for key, value in family.state_dict().items() if "pos_enc" not in key})
    kernel, offset = family.position.pos_enc.weight, family.position.pos_enc.bias
    x = torch.randn(1, WIDTH, 4, 4)
    placed = x.clone()
    with torch.no_grad():
        for y in range(4):
            for x_ in range(4):
                placed[0, :, y, x_] += offset
                for other in everywhere(4)(y, x_):
                    dy, dx = other[0] - y, other[1] - x_
                    placed[0, :, y, x_] += kernel[:, 0, 3 + dy, 3 + dx] * x[0, :, other[0], other[1]]
        torch.testing.assert_close(family(x), plain(placed), rtol=1e-5, atol=1e-5)


def levit_reference(x, module, side, stride):
    """LeViT's attention, position by position: tokens (N, C) of a side x side map to those of every stride-th."""

    def heads_of(norm, token):
        """Its part for each head; the norm is that of the running statistics."""
        return norm(x[token].view(1, 1, -1))[0, 0].chunk(module.num_heads)

    places = [(y, x_) for y in range(side) for x_ in range(side)]
    key_dim = module.dims[0]
    row_of = distance_row(side)
    out = []
    for token, (y, x_) in enumerate(places):
        if y % stride or x_ % stride:
            continue
        mixed = []
        for head in range(module.num_heads):
            if stride == 1:
                query = heads_of(module.qkv, token)[head][:key_dim]
                answers = [heads_of(module.qkv, other)[head][key_dim:] for other in range(len(places))]
            else:
                query = heads_of(module.query, token)[head]
                answers = [heads_of(module.qkv, other)[head] for other in range(len(places))]
            biases = [module.bias.table[row_of(y - v, x_ - u), head] for v, u in places]
            mixed.append(attended(query, [a[:key_dim] for a in answers], [a[key_dim:] for a in answers], biases))
        out.append(module.proj(module.act(torch.cat(mixed)).view(1, 1, -1))[0, 0])
    return torch.stack(out)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 4, 5])
def test_levit_attention_is_the_slow_reference(side, stride):
    module = randomise(LevitAttention(WIDTH, 10, 2, 3, 5, side, "hard_swish", stride)).eval()
    x = torch.randn(2, side * side, WIDTH)
    with torch.no_grad():
        found = module(x, side, side)
        expected = torch.stack([levit_reference(one, module, side, stride) for one in x])
    assert found.shape == (2, math.ceil(side / stride) ** 2, 10)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [5, 9])
def test_a_window_over_the_whole_map_is_global_attention(window):
    windowed = WindowAttention(WIDTH, 2, 5, window=window, head_dim=HEAD_DIM)
    whole = randomise(GlobalAttention(WIDTH, 2, 5, head_dim=HEAD_DIM, eps=1e-5)).eval()
    weights = {name.replace(".mix.", ".mix.attention."): value for name, value in whole.state_dict().items()}
    windowed.load_state_dict(weights)
    x = torch.randn(2, WIDTH, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(windowed.eval()(x), whole(x), rtol=1e-5, atol=1e-5)


def test_every_second_block_shifts_by_half_a_window():
    shifts = {
        side: [block.mix.shift for block in WindowAttention(WIDTH, 4, side, window=7, head_dim=HEAD_DIM).blocks]
        for side in (14, 7)
    }
    assert shifts == {14: [0, 3, 0, 3], 7: [0, 0, 0, 0]}


def test_the_shift_carries_information_across_windows():
    """One block stays inside its windows; two reach beyond them (Swin, figure 2)."""
    x = torch.randn(1, WIDTH, 8, 8)
    nudged = x.clone()
    nudged[:, 0, 0, 3] += 5.0  # in the first window of four; one channel, since the norm takes away what all share
    changed = {}
    for depth in (1, 2):
        module = randomise(WindowAttention(WIDTH, depth, 8, window=4, head_dim=HEAD_DIM)).eval()
        with torch.no_grad():
            changed[depth] = (module(nudged) != module(x)).any(1)[0]
    assert changed[1][:4, :4].all()
    assert not changed[1][4:].any() and not changed[1][:, 4:].any()
    assert changed[2][:4, 4:6].all()
