import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tercet.core.errors import ConfigError
from tercet.data.augmentations import PRESETS, Preset
from tercet.data.transforms import AREA_RANGE, ASPECT_RANGE, augment, cutmix, erase, mixup


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(height: int, width: int, row: float, column: float, radius: float = 5.0) -> Tensor:
    """A soft disc, 1 1 H W, at pixel (row, column) from the centre."""
    rows = torch.arange(height) - (height - 1) / 2 - row
    columns = torch.arange(width) - (width - 1) / 2 - column
    return (radius - (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt()).clamp(0, 1)[None, None]


def centre_of(image: Tensor) -> tuple[float, float]:
    height, width = image.shape[-2:]
    weights = image[0] / image.sum()
    rows = (weights.sum(-1) * (torch.arange(height) - (height - 1) / 2)).sum()
    columns = (weights.sum(-2) * (torch.arange(width) - (width - 1) / 2)).sum()
    return float(rows), float(columns)


def test_paper_preset_has_the_published_ranges() -> None:
    paper = PRESETS["paper"]
    assert (paper.rotation, paper.shift, paper.shear, paper.zoom_range) == (30, 0.3, 0.3, (0.7, 1.3))
    assert paper.channel_shift == pytest.approx(10 / 255) and paper.horizontal_flip and paper.vertical_flip
    calm = PRESETS["paper-noflip"]
    assert not calm.horizontal_flip and not calm.vertical_flip and calm.rotation == 30
    assert not PRESETS["light"].horizontal_flip and PRESETS["light-flip"].horizontal_flip


def test_none_preset_returns_the_input() -> None:
    images = torch.rand(3, 2, 5, 7)
    assert augment(images, "none", seeded()) is images
    still = augment(images, Preset(rotation=1e-9), seeded())
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)


def test_flip_preset_only_mirrors() -> None:
    images = torch.rand(64, 1, 5, 6)
    flipped = augment(images, "flip", seeded())
    mirrored = (flipped == images.flip(3)).all(3).all(2).all(1)
    assert 16 < int(mirrored.sum()) < 48
    assert torch.equal(flipped[~mirrored], images[~mirrored])


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (3, 3, 20, 11), (1, 3, 1, 9)])
def test_augmentation_keeps_shape_and_range_and_is_seeded(preset: str, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    augmented = augment(images, preset, seeded(3))
    assert augmented.shape == images.shape and augmented.dtype == images.dtype
    changes_light = PRESETS[preset].contrast or PRESETS[preset].brightness
    low, high = (0, 1) if changes_light else (images.min(), images.max())
    assert augmented.min() >= low - 1e-6 and augmented.max() <= high + 1e-6
    torch.testing.assert_close(augmented, augment(images, preset, seeded(3)), atol=0, rtol=0)
    if preset != "none" and shape[2] > 1:
        assert not torch.equal(augmented, augment(images, preset, seeded(4)))


def test_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        augment(torch.rand(1, 1, 2, 2), "papr", seeded())


@pytest.mark.parametrize("size", [(41, 41), (41, 81), (81, 41)])
def test_rotation_preserves_shapes_and_distances(size: tuple[int, int]) -> None:
    image = blob(*size, row=0, column=12).expand(50, -1, -1, -1)
    turned = augment(image, Preset(rotation=90), seeded())
    angles = []
    for moved in turned:
        row, column = centre_of(moved)
        assert (row**2 + column**2) ** 0.5 == pytest.approx(12, abs=0.3)
        assert float(moved.sum()) == pytest.approx(float(image[0].sum()), rel=0.03)
        angles.append(np.degrees(np.arctan2(row, column)))
    assert max(map(abs, angles)) <= 90.5 and max(angles) > 60 and min(angles) < -60


@pytest.mark.parametrize("size", [(40, 80), (80, 40)])
def test_shifts_are_fractions_of_each_side(size: tuple[int, int]) -> None:
    image = blob(*size, row=0, column=0, radius=4).expand(200, -1, -1, -1)
    moved = np.array([centre_of(shifted) for shifted in augment(image, Preset(shift=0.3), seeded())])
    for axis in (0, 1):
        assert abs(moved[:, axis]).max() <= 0.3 * size[axis] + 0.2
        assert moved[:, axis].max() > 0.25 * size[axis] and moved[:, axis].min() < -0.25 * size[axis]
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


def test_zoom_factors_are_independent_and_in_range() -> None:
    image = blob(61, 61, 0, 0, radius=12).expand(100, -1, -1, -1)
    zoomed = augment(image, Preset(zoom_range=(0.7, 1.3)), seeded())[:, 0]
    heights, widths = (zoomed.sum(axis)[:, 30].numpy() for axis in (1, 2))
    true = float(image[0, 0, :, 30].sum())
    for lengths in (heights, widths):
        assert true / 1.3 - 0.6 <= lengths.min() and lengths.max() <= true / 0.7 + 0.6
        assert lengths.max() > 1.2 * true and lengths.min() < 0.85 * true
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.3


def test_border_pixels_are_repeated() -> None:
    image = torch.full((8, 1, 20, 20), 0.25)
    image[:, :, 5:15, 5:15] = 0.75
    shifted = augment(image, Preset(shift=0.3, zoom_range=(1.3, 1.3), rotation=30), seeded())
    assert shifted.min() == pytest.approx(0.25, abs=1e-5)


def test_channel_shift_is_clipped_to_the_image_range() -> None:
    image = torch.rand(1, 3, 6, 6) * 0.5 + 0.25
    image[0, 0, 0, 0], image[0, 0, 0, 1] = 0.1, 0.9
    for seed in range(10):
        shift = augment(image, Preset(channel_shift=0.05), seeded(seed)) - image
        inner = shift[(image > 0.2) & (image < 0.8)]
        assert float(inner.max() - inner.min()) < 1e-5 and 0 < abs(float(inner.mean())) <= 0.05
    assert float(augment(image, Preset(channel_shift=0.05), seeded(0)).max()) <= 0.9 + 1e-6


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.rand(200, 1, 4, 5)
    moved = augment(images, Preset(horizontal_flip=True), seeded())
    plain = (moved - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (moved - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((plain | mirrored).all()) and 60 < int(mirrored.sum()) < 140
    upright = augment(images, Preset(vertical_flip=True), seeded())
    mirrored = (upright - images.flip(2)).abs().amax((1, 2, 3)) < 1e-5
    assert 60 < int(mirrored.sum()) < 140


@pytest.mark.parametrize("preset", ["light", "paper"])
def test_augmentation_scales_with_the_image_size(preset: str) -> None:
    large = torch.cat([blob(96, 96, row, column, radius=14) for row, column in ((0, 20), (-18, 5), (10, -15))])
    small = functional.interpolate(large, (48, 48), mode="area")
    moved_large = functional.interpolate(augment(large, preset, seeded(5)), (48, 48), mode="area")
    moved_small = augment(small, preset, seeded(5))
    assert float((moved_large - moved_small).abs().mean()) < 0.01
    assert float((moved_small - small).abs().mean()) > 0.01


def test_contrast_and_brightness_are_linear_within_their_ranges() -> None:
    images = torch.rand(200, 3, 4, 4) * 0.2 + 0.4  # the change cannot leave [0, 1]
    changed = augment(images, Preset(contrast=0.2, brightness=0.1), seeded())
    flat, after = images.flatten(1), changed.flatten(1)
    factor = (after.amax(1) - after.amin(1)) / (flat.amax(1) - flat.amin(1))
    added = after.amax(1) - factor * flat.amax(1)
    assert 0.8 <= factor.min() < 0.83 and 1.17 < factor.max() <= 1.2 + 1e-4
    assert -0.1 - 1e-4 <= added.min() < -0.08 and 0.08 < added.max() <= 0.1 + 1e-4
    torch.testing.assert_close(after, factor[:, None] * flat + added[:, None], atol=1e-4, rtol=0)
    assert abs(np.corrcoef(factor, added)[0, 1]) < 0.2
    extreme = augment(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), Preset(brightness=0.5), seeded())
    assert extreme.min() >= 0 and extreme.max() <= 1


def test_same_zoom_keeps_aspect_ratios() -> None:
    image = blob(61, 61, 0, 0, radius=12).expand(60, -1, -1, -1)
    zoomed = augment(image, Preset(zoom_range=(0.7, 1.3), same_zoom=True), seeded())[:, 0]
    heights, widths = (zoomed.sum(axis)[:, 30].numpy() for axis in (1, 2))
    np.testing.assert_allclose(heights, widths, atol=0.05)
    assert heights.max() > 1.2 * heights.min()


def test_leaves_preset_has_the_listed_transforms() -> None:
    leaves = PRESETS["leaves"]
    assert leaves.horizontal_flip and leaves.vertical_flip and leaves.same_zoom
    assert min(leaves.rotation, leaves.shift, leaves.contrast, leaves.brightness) > 0 and not leaves.shear


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixing_weights_pixels_and_labels_equally(mix) -> None:  # type: ignore[no-untyped-def]
    classes = torch.arange(6)
    targets = functional.one_hot(classes, 6).float()
    images = classes.float().view(6, 1, 1, 1).expand(6, 1, 9, 13).contiguous()
    for seed in range(20):
        mixed, labels = mix(images, targets, alpha=1.0, generator=seeded(seed))
        torch.testing.assert_close(labels.sum(1), torch.ones(6))
        # an image of class c is filled with c, so its mean is the labels' expectation
        torch.testing.assert_close(mixed.mean((1, 2, 3)), labels @ classes.float(), atol=1e-4, rtol=0)
        again, _ = mix(images, targets, alpha=1.0, generator=seeded(seed))
        assert torch.equal(mixed, again)
    assert torch.equal(images[:, 0, 0, 0], classes.float())


def test_cutmix_pastes_one_box() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).contiguous()
    shares = []
    for seed in range(40):
        mixed, labels = cutmix(images, torch.eye(4), alpha=1.0, generator=seeded(seed))
        shares.append(float(labels.diagonal().min()))
        for image, original in zip(mixed, images, strict=True):
            changed = (image != original)[0]
            if changed.any():
                rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
                assert int(changed.sum()) == len(rows) * len(columns)
                assert len(rows) == rows[-1] - rows[0] + 1 and len(columns) == columns[-1] - columns[0] + 1
    assert min(shares) < 0.4 and max(shares) > 0.7


def test_mixup_weight_follows_the_beta_distribution() -> None:
    targets, images = torch.eye(2), torch.zeros(2, 1, 1, 1)
    shares = []
    for seed in range(400):
        _, labels = mixup(images, targets, alpha=0.2, generator=seeded(seed))
        shares.append(float(labels[0, 0]))
    extreme = np.mean([share < 0.1 or share > 0.9 for share in shares])
    assert 0.6 < extreme < 0.95  # Beta(0.2, 0.2) holds 0.70 there, and half of the draws keep the order


def boxes(erased: Tensor) -> list[tuple[int, int, int, int] | None]:
    """Return top, left, height and width of the pixels that are not -1, for each image."""
    spans: list[tuple[int, int, int, int] | None] = []
    for image in erased:
        changed = (image != -1).all(0)
        assert bool((changed == (image != -1).any(0)).all())  # all channels alike
        if not changed.any():
            spans.append(None)
            continue
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert int(changed.sum()) == height * width  # one box without holes
        spans.append((int(rows[0]), int(columns[0]), height, width))
    return spans


@pytest.mark.parametrize("shape", [(300, 3, 40, 40), (300, 1, 28, 56)])
def test_erased_boxes_have_the_published_areas_and_aspect_ratios(shape: tuple[int, int, int, int]) -> None:
    erased = erase(torch.full(shape, -1.0), 1.0, seeded())
    spans = np.array([box for box in boxes(erased) if box is not None])
    height, width = shape[2:]
    assert len(spans) == shape[0]
    area, aspect = spans[:, 2] * spans[:, 3] / (height * width), spans[:, 2] / spans[:, 3]
    assert AREA_RANGE[0] - 0.01 < area.min() < 0.06 and 0.34 < area.max() < AREA_RANGE[1] + 0.02
    assert ASPECT_RANGE[0] - 0.1 < aspect.min() < 0.6 and 2 < aspect.max() < ASPECT_RANGE[1] + 0.9
    assert spans[:, 0].min() == 0 and spans[:, 1].min() == 0
    assert (spans[:, 0] + spans[:, 2]).max() == height and (spans[:, 1] + spans[:, 3]).max() == width
    noise = erased[erased != -1]
    assert 0 <= float(noise.min()) < 0.01 and 0.99 < float(noise.max()) < 1
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)


def test_erasing_probability_is_per_image() -> None:
    images = torch.full((400, 1, 8, 8), -1.0)
    erased = [box is not None for box in boxes(erase(images, 0.3, seeded()))]
    assert 0.23 < np.mean(erased) < 0.37
    assert torch.equal(erase(images, 0.0, seeded()), images)


def test_erase_is_seeded_and_does_not_change_its_input() -> None:
    images = torch.rand(6, 3, 16, 16)
    before = images.clone()
    erased = erase(images, 1.0, seeded(1))
    assert torch.equal(erased, erase(images, 1.0, seeded(1)))
    assert not torch.equal(erased, erase(images, 1.0, seeded(2)))
    assert torch.equal(images, before)


def test_erased_boxes_scale_with_the_image_size() -> None:
    small, large = (boxes(erase(torch.full((50, 1, side, side), -1.0), 0.7, seeded(3))) for side in (48, 192))
    for small_box, large_box in zip(small, large, strict=True):
        assert (small_box is None) == (large_box is None)
        if small_box is not None and large_box is not None:
            assert np.allclose(np.array(small_box) * 4, large_box, atol=4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 50)])
def test_tiny_images_can_be_erased(size: tuple[int, int]) -> None:
    assert erase(torch.zeros(4, 1, *size), 1.0, seeded()).shape == (4, 1, *size)
