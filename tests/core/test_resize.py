"""The one resize: sizes are reached, content stays where it belongs, values stay in range."""

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
def test_every_way_reaches_the_size_within_range(
    have: tuple[int, int], want: tuple[int, int], crop_mode: CropMode, interpolation: Interpolation, crop: float
) -> None:
    images = torch.rand(2, 3, *have)
    result = fit_size(images, want, crop_mode=crop_mode, crop_pct=crop, interpolation=interpolation)
    assert result.shape == (2, 3, *want)
    assert result.min() >= 0 and result.max() <= 1 + 1e-6


@settings(deadline=None, max_examples=20)
@given(sizes, sizes, st.sampled_from(CROP_MODES), st.sampled_from(FILTERS))
def test_a_flat_image_stays_flat(
    have: tuple[int, int], want: tuple[int, int], crop_mode: CropMode, interpolation: Interpolation
) -> None:
    result = fit_size(torch.full((1, 1, *have), 0.25), want, crop_mode=crop_mode, interpolation=interpolation)
    torch.testing.assert_close(result, torch.full((1, 1, *want), 0.25))


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_the_right_size_is_left_untouched(crop_mode: CropMode) -> None:
    images = torch.rand(2, 3, 7, 5)
    assert torch.equal(fit_size(images, (7, 5), crop_mode=crop_mode), images)
    assert scale(images, (7, 5), "bicubic") is images


def test_halving_averages_instead_of_dropping_pixels() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
    smooth = fit_size(stripes, (16, 16))
    # inside; at the borders the filter sees fewer pixels
    torch.testing.assert_close(smooth[..., 2:-2], torch.full((1, 1, 16, 12), 0.5))
    assert set(fit_size(stripes, (16, 16), interpolation="nearest").unique().tolist()) <= {0.0, 1.0}


def test_bilinear_is_the_reference_resampling() -> None:
    images = torch.rand(1, 3, 17, 23)
    expected = functional.interpolate(images, (8, 30), mode="bilinear", antialias=True)
    assert torch.equal(fit_size(images, (8, 30)), expected)


def gradient() -> torch.Tensor:
    """Return 1 1 10 40: brightness grows from left to right."""
    return torch.linspace(0, 1, 40).expand(1, 1, 10, 40)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_result_of_one_column_is_resampled_like_any_other(interpolation: Interpolation) -> None:
    images = torch.rand(2, 3, 50, 1)
    wider = scale(images.expand(-1, -1, -1, 2).contiguous(), (16, 2), interpolation)
    torch.testing.assert_close(scale(images, (16, 1), interpolation), wider[..., :1])


def test_squash_keeps_all_shorter_keeps_the_centre_pad_repeats_the_border() -> None:
    squashed, cropped, padded = (fit_size(gradient(), (10, 10), crop_mode=crop_mode) for crop_mode in CROP_MODES)
    assert squashed[0, 0, 0, -1] - squashed[0, 0, 0, 0] > 0.85
    torch.testing.assert_close(cropped, gradient()[..., 15:25])
    middle = padded[0, 0, 4:6]
    assert middle[0, -1] - middle[0, 0] > 0.85
    torch.testing.assert_close(padded[0, 0, 0], padded[0, 0, 4])


def test_the_crop_fraction_is_the_share_that_is_kept() -> None:
    ramp = torch.linspace(0, 1, 100).expand(1, 1, 100, 100)
    for crop_mode in ("squash", "center"):
        kept = fit_size(ramp, (100, 100), crop_mode=crop_mode, crop_pct=0.5)
        assert (kept[0, 0, 0, -1] - kept[0, 0, 0, 0]).item() == pytest.approx(0.5, abs=0.02)
        assert kept.mean().item() == pytest.approx(0.5, abs=0.01)


def test_flipping_and_fitting_commute() -> None:
    images = torch.rand(1, 3, 20, 30)
    for crop_mode in CROP_MODES:
        flipped = fit_size(images.flip(-1), (10, 11), crop_mode=crop_mode)  # margins that halve evenly
        torch.testing.assert_close(flipped, fit_size(images, (10, 11), crop_mode=crop_mode).flip(-1))


def test_grey_is_repeated_and_colour_becomes_luma() -> None:
    grey = torch.rand(2, 1, 3, 3)
    assert torch.equal(to_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert to_channels(grey, 1) is grey
    colours = torch.eye(3).view(3, 3, 1, 1)
    assert to_channels(colours, 1).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
    torch.testing.assert_close(to_channels(to_channels(grey, 3), 1), grey)


@pytest.mark.parametrize(("have", "want"), [(2, 3), (3, 2), (4, 3), (4, 1)])
def test_other_channels_are_refused(have: int, want: int) -> None:
    with pytest.raises(ValueError, match=f"{have} channels, the network reads {want}: set --input.channels"):
        to_channels(torch.rand(1, have, 2, 2), want)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(20, 60), st.integers(20, 60)),
    st.tuples(st.integers(20, 40), st.integers(20, 40)),
    st.sampled_from(CROP_MODES),
    st.sampled_from([1.0, 0.9, 0.5]),
)
def test_what_a_network_was_shown_is_laid_back_where_it_was(
    picture: tuple[int, int], size: tuple[int, int], crop_mode: CropMode, crop: float
) -> None:
    down = torch.linspace(0, 1, picture[0]).unsqueeze(1).expand(picture)
    right = torch.linspace(0, 1, picture[1]).expand(picture)
    shown = fit_size(torch.stack([down, right])[None], size, crop_mode=crop_mode, crop_pct=crop)[
        0
    ]  # its place, as pixels
    window = visible_window(picture, size, crop_mode=crop_mode, crop_pct=crop)
    back = project_to_image(shown, window, picture, picture)
    seen = ~back[0].isnan()
    assert seen.any() and torch.equal(seen, ~back[1].isnan())
    assert seen.all() == (crop_mode == "border" or (window.height, window.width) == picture)
    inner = seen[2:-2, 2:-2] & ~_near_an_edge(seen)[2:-2, 2:-2]
    for axis, values in enumerate((down, right)):
        wrong = (back[axis] - values)[2:-2, 2:-2][inner].abs()
        assert wrong.numel() == 0 or wrong.max() < 0.05


def _near_an_edge(seen: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d((~seen).float()[None], 5, 1, 2)[0] > 0


def test_cells_are_laid_as_blocks_and_what_was_not_shown_stays_empty() -> None:
    window = visible_window((4, 8), (6, 6), crop_mode="center")
    assert window == Window(0, 2, 4, 4)
    laid = project_to_image(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), window, (4, 8), (4, 8), interpolation="nearest")[
        0
    ]
    assert laid[:, :2].isnan().all() and laid[:, 6:].isnan().all()
    assert laid[:, 2:6].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert visible_window((10, 40), (20, 20), crop_mode="border") == Window(
        -14, 0, 40, 40
    )  # 5 rows within 20, above them 7
