"""The embedded data set: what its parts hold, and that a class needs both the texture and the arrangement.

The networks here are small and apart from the package: patches of 8 x 8 pixels are embedded one by one, then mixed,
then averaged. All see 1,600 images of 32 x 32 for ten epochs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hybridnas.data import synthetic
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.data.synthetic import synthetic_dataset

PATCH = 8  # pixels
GRID = 4  # patches a side
WIDTH = 64
#: A network that could name only the texture, or only the arrangement, would be right this often.
ONE_OF_FOUR = 0.25


def test_the_seed_decides_every_pixel() -> None:
    first, again, other = (
        synthetic_dataset(32, seed=seed, num_train=64, num_validation=32, num_test=32) for seed in (3, 3, 4)
    )
    for part in ("train", "validation", "test"):
        a, b, c = getattr(first, part), getattr(again, part), getattr(other, part)
        assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
        assert not np.array_equal(a.images, c.images) and not np.array_equal(a.labels, c.labels)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(("asked", "given"), [(10**9, 1600), (4000, 1600), (100, 100), (3, 16)])
def test_fewer_images_to_train_on_may_be_asked_for(asked: int, given: int) -> None:
    data = open_source("synthetic").load(Loading(16, max_train=asked))
    assert len(data.train) == given and np.unique(data.train.labels).size == 16
    assert len(data.validation) == 1000


@pytest.mark.parametrize("image_size", [32, 48, 224])
def test_shape_type_and_balance(image_size: int) -> None:
    data = synthetic_dataset(image_size, seed=0, num_train=48, num_validation=32, num_test=16)
    assert data.image_size == image_size
    assert len(set(data.class_names)) == data.num_classes == 16
    for part, count in ((data.train, 48), (data.validation, 32), (data.test, 16)):
        assert part.images.shape == (count, 3, image_size, image_size)
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int64
        assert np.array_equal(np.bincount(part.labels), np.full(16, count // 16))


def test_a_count_that_16_does_not_divide_leaves_classes_within_one_of_each_other() -> None:
    counts = np.bincount(synthetic_dataset(16, seed=0, num_train=100, num_validation=32, num_test=32).train.labels)
    assert counts.sum() == 100 and counts.max() - counts.min() == 1


def test_no_image_is_in_two_parts_or_twice_in_one() -> None:
    data = synthetic_dataset(32, seed=0)
    images = [image.tobytes() for part in (data.train, data.validation, data.test) for image in part.images]
    assert len(set(images)) == len(images)
    assert len(data.validation) >= 800  # one standard deviation of an accuracy is then at most 1.8 points


def test_a_texture_is_as_coarse_at_every_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of stripes across the image: at twice the size, half the frequency in cycles a pixel."""
    monkeypatch.setattr(synthetic, "NOISE", 0.0)  # which has all frequencies

    def peak(size: int) -> float:
        images = synthetic_dataset(size, seed=0, num_train=256, num_validation=16, num_test=16).train.images
        power = (np.abs(np.fft.fft2(images.mean(1) - images.mean())) ** 2).mean(0)
        cycles = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(size, 1 / size)]))  # across the image
        band = (cycles > 4) & (cycles < 14)
        return float((power * cycles)[band].sum() / power[band].sum())

    assert peak(32) == pytest.approx(peak(64), rel=0.05)
    assert peak(64) == pytest.approx(1 / 0.13, rel=0.1)


class PatchNet(nn.Sequential):
    """Embeds each patch, mixes (3 x 3 patches twice, or each patch alone), and averages the scores over the patches.

    Both forms have the same number of weights: 3 * 3 * WIDTH channels take the place of 3 x 3 neighbours.
    """

    def __init__(self, *, sees_neighbours: bool) -> None:
        if sees_neighbours:
            first, second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        else:
            first, second = nn.Conv2d(WIDTH, 9 * WIDTH, 1), nn.Conv2d(9 * WIDTH, WIDTH, 1)
        super().__init__(
            nn.Conv2d(3, WIDTH, PATCH, stride=PATCH),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.GELU(),
            first,
            nn.GELU(),
            second,
            nn.GELU(),
            nn.Conv2d(WIDTH, 16, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def as_they_are(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def patches_permuted(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) with the patches of each image in an order of their own."""
    patches = F.unfold(images, PATCH, stride=PATCH)  # (B, 3 * PATCH**2, GRID**2)
    order = torch.rand(len(images), 1, GRID**2, generator=generator).argsort(2)
    return F.fold(patches.gather(2, order.expand_as(patches)), GRID * PATCH, PATCH, stride=PATCH)


def patches_averaged(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) with each patch in its mean colour: the coarse layout alone."""
    return F.interpolate(F.avg_pool2d(images, PATCH), scale_factor=PATCH)


def accuracy(network: Callable[[], nn.Module], view: Callable[[Tensor, torch.Generator], Tensor]) -> float:
    """On the validation part, after training; the view is drawn anew at each epoch."""
    data = synthetic_dataset(GRID * PATCH, seed=0, num_train=1600, num_validation=1000, num_test=16)
    images, unseen = (torch.from_numpy(part.images).float() / 64 - 2 for part in (data.train, data.validation))
    labels = torch.from_numpy(data.train.labels)
    epochs, batch_size = 10, 32
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = epochs * len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        shown = view(images, generator)
        for chosen in torch.randperm(len(images), generator=generator).split(batch_size):
            loss = F.cross_entropy(model(shown[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        right = model(view(unseen, generator)).argmax(1).numpy() == data.validation.labels
    return float(right.mean())


@pytest.fixture(scope="module")
def full() -> float:
    return accuracy(lambda: PatchNet(sees_neighbours=True), as_they_are)


def test_the_arrangement_and_the_texture_together_are_learnt(full: float) -> None:
    assert full > 0.6


def test_a_bag_of_patches_does_not_suffice(full: float) -> None:
    """BagNet (arXiv:1904.00760): scores of patches, averaged. As many weights as the network that sees neighbours."""
    seeing, bag = (sum(p.numel() for p in PatchNet(sees_neighbours=s).parameters()) for s in (True, False))
    assert bag == pytest.approx(seeing, rel=0.02) and bag >= seeing
    local = accuracy(lambda: PatchNet(sees_neighbours=False), as_they_are)
    assert ONE_OF_FOUR - 0.08 < local < full - 0.15  # the texture is learnt, not the rest


def test_patches_in_any_order_do_not_suffice(full: float) -> None:
    shuffled = accuracy(lambda: PatchNet(sees_neighbours=True), patches_permuted)
    assert ONE_OF_FOUR - 0.08 < shuffled < full - 0.15


def test_the_coarse_layout_does_not_suffice(full: float) -> None:
    coarse = accuracy(lambda: PatchNet(sees_neighbours=True), patches_averaged)
    assert coarse < full - 0.15
