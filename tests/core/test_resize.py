"""Resizing: output sizes, positions and value ranges; projection of maps back to the image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tercet.core.resize import (
    CropMode,
    Interpolation,
    Window,
    fit_size,
    project_to_image,
    scale,
    to_channels,
    visible_window,
)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
FILTERS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")
CROP_MODES: tuple[CropMode, ...] = ("squash", "center", "border")


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, st.sampled_from(CROP_MODES), st.sampled_from(FILTERS), st.sampled_from([1.0, 0.9, 0.5]))
def test_the_size_is_reached_and_values_stay_in_range(
    image_size: tuple[int, int], size: tuple[int, int], crop_mode: CropMode, interpolation: Interpolation, crop: float
) -> None:
    images = torch.rand(2, 3, *image_size)
    result = fit_size(images, size, crop_mode=crop_mode, crop_pct=crop, interpolation=interpolation)
    assert result.shape == (2, 3, *size)
    assert result.min() >= 0 and result.max() <= 1 + 1e-6


@settings(deadline=None, max_examples=20)
@given(sizes, sizes, st.sampled_from(CROP_MODES), st.sampled_from(FILTERS))
def test_a_constant_image_stays_constant(
    image_size: tuple[int, int], size: tuple[int, int], crop_mode: CropMode, interpolation: Interpolation
) -> None:
    result = fit_size(torch.full((1, 1, *image_size), 0.25), size, crop_mode=crop_mode, interpolation=interpolation)
    torch.testing.assert_close(result, torch.full((1, 1, *size), 0.25))


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_an_image_of_the_output_size_is_unchanged(crop_mode: CropMode) -> None:
    images = torch.rand(2, 3, 7, 5)
    assert torch.equal(fit_size(images, (7, 5), crop_mode=crop_mode), images)
    assert scale(images, (7, 5), "bicubic") is images


def test_shrinking_averages_pixels() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
    smooth = fit_size(stripes, (16, 16))
    # at the borders the filter covers fewer pixels
    torch.testing.assert_close(smooth[..., 2:-2], torch.full((1, 1, 16, 12), 0.5))
    assert set(fit_size(stripes, (16, 16), interpolation="nearest").unique().tolist()) <= {0.0, 1.0}


def test_bilinear_equals_pytorch_with_antialiasing() -> None:
    images = torch.rand(1, 3, 17, 23)
    expected = functional.interpolate(images, (8, 30), mode="bilinear", antialias=True)
    assert torch.equal(fit_size(images, (8, 30)), expected)


def gradient() -> torch.Tensor:
    """Return 1 1 10 40: brightness increases from left to right."""
    return torch.linspace(0, 1, 40).expand(1, 1, 10, 40)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_output_of_one_column_is_resampled_correctly(interpolation: Interpolation) -> None:
    images = torch.rand(2, 3, 50, 1)
    wider = scale(images.expand(-1, -1, -1, 2).contiguous(), (16, 2), interpolation)
    torch.testing.assert_close(scale(images, (16, 1), interpolation), wider[..., :1])


def test_squash_distorts_center_crops_and_border_replicates() -> None:
    squashed, cropped, padded = (fit_size(gradient(), (10, 10), crop_mode=crop_mode) for crop_mode in CROP_MODES)
    assert squashed[0, 0, 0, -1] - squashed[0, 0, 0, 0] > 0.85
    torch.testing.assert_close(cropped, gradient()[..., 15:25])
    middle = padded[0, 0, 4:6]
    assert middle[0, -1] - middle[0, 0] > 0.85
    torch.testing.assert_close(padded[0, 0, 0], padded[0, 0, 4])


def test_crop_pct_is_the_fraction_that_is_kept() -> None:
    ramp = torch.linspace(0, 1, 100).expand(1, 1, 100, 100)
    for crop_mode in ("squash", "center"):
        crop = fit_size(ramp, (100, 100), crop_mode=crop_mode, crop_pct=0.5)
        assert (crop[0, 0, 0, -1] - crop[0, 0, 0, 0]).item() == pytest.approx(0.5, abs=0.02)
        assert crop.mean().item() == pytest.approx(0.5, abs=0.01)


def test_flipping_and_resizing_commute() -> None:
    images = torch.rand(1, 3, 20, 30)
    for crop_mode in CROP_MODES:
        flipped = fit_size(images.flip(-1), (10, 11), crop_mode=crop_mode)  # sizes with even margins
        torch.testing.assert_close(flipped, fit_size(images, (10, 11), crop_mode=crop_mode).flip(-1))


def test_grayscale_is_repeated_and_rgb_becomes_luma() -> None:
    grey = torch.rand(2, 1, 3, 3)
    assert torch.equal(to_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert to_channels(grey, 1) is grey
    colours = torch.eye(3).view(3, 3, 1, 1)
    assert to_channels(colours, 1).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
    torch.testing.assert_close(to_channels(to_channels(grey, 3), 1), grey)


@pytest.mark.parametrize(("present", "channels"), [(2, 3), (3, 2), (4, 1)])
def test_other_channels_raise(present: int, channels: int) -> None:
    with pytest.raises(ValueError, match=f"{present} channels, the network expects {channels}"):
        to_channels(torch.rand(1, present, 2, 2), channels)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(20, 60), st.integers(20, 60)),
    st.tuples(st.integers(20, 40), st.integers(20, 40)),
    st.sampled_from(CROP_MODES),
    st.sampled_from([1.0, 0.9, 0.5]),
)
def test_projection_inverts_resizing(
    image_size: tuple[int, int], size: tuple[int, int], crop_mode: CropMode, crop: float
) -> None:
    down = torch.linspace(0, 1, image_size[0]).unsqueeze(1).expand(image_size)
    right = torch.linspace(0, 1, image_size[1]).expand(image_size)
    coordinates = torch.stack([down, right])  # the pixel values are their positions
    resized = fit_size(coordinates[None], size, crop_mode=crop_mode, crop_pct=crop)[0]
    window = visible_window(image_size, size, crop_mode=crop_mode, crop_pct=crop)
    projected = project_to_image(resized, window, image_size, image_size)
    visible = ~projected[0].isnan()
    assert visible.any() and torch.equal(visible, ~projected[1].isnan())
    assert visible.all() == (crop_mode == "border" or (window.height, window.width) == image_size)
    inner = visible[2:-2, 2:-2] & ~_near_an_edge(visible)[2:-2, 2:-2]
    errors = (projected - coordinates)[:, 2:-2, 2:-2][:, inner].abs()
    assert errors.numel() == 0 or errors.max() < 0.05


def _near_an_edge(visible: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d((~visible).float()[None], 5, 1, 2)[0] > 0


def test_cells_are_projected_as_blocks_and_pixels_outside_the_window_are_nan() -> None:
    window = visible_window((4, 8), (6, 6), crop_mode="center")
    assert window == Window(0, 2, 4, 4)
    cells = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    projected = project_to_image(cells, window, (4, 8), (4, 8), interpolation="nearest")[0]
    assert projected[:, :2].isnan().all() and projected[:, 6:].isnan().all()
    assert projected[:, 2:6].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    # 5 of 20 output rows are image, 7 rows of padding above; one output row is 2 pixels of the image
    assert visible_window((10, 40), (20, 20), crop_mode="border") == Window(-14, 0, 40, 40)
