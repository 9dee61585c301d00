"""The one resize: sizes are reached, content stays where it belongs, values stay in range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tercet.ground.geometry import Interpolation, Resize, fit, scale, to_channels

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
FILTERS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")
RESIZES: tuple[Resize, ...] = ("squash", "shorter", "pad")


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, st.sampled_from(RESIZES), st.sampled_from(FILTERS), st.sampled_from([1.0, 0.9, 0.5]))
def test_every_way_reaches_the_size_within_range(
    have: tuple[int, int], want: tuple[int, int], resize: Resize, interpolation: Interpolation, crop: float
) -> None:
    images = torch.rand(2, 3, *have)
    result = fit(images, want, resize=resize, crop_fraction=crop, interpolation=interpolation)
    assert result.shape == (2, 3, *want)
    assert result.min() >= 0 and result.max() <= 1 + 1e-6


@settings(deadline=None, max_examples=20)
@given(sizes, sizes, st.sampled_from(RESIZES), st.sampled_from(FILTERS))
def test_a_flat_image_stays_flat(
    have: tuple[int, int], want: tuple[int, int], resize: Resize, interpolation: Interpolation
) -> None:
    result = fit(torch.full((1, 1, *have), 0.25), want, resize=resize, interpolation=interpolation)
    torch.testing.assert_close(result, torch.full((1, 1, *want), 0.25))


@pytest.mark.parametrize("resize", RESIZES)
def test_the_right_size_is_left_untouched(resize: Resize) -> None:
    images = torch.rand(2, 3, 7, 5)
    assert torch.equal(fit(images, (7, 5), resize=resize), images)
    assert scale(images, (7, 5), "bicubic") is images


def test_halving_averages_instead_of_dropping_pixels() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
    smooth = fit(stripes, (16, 16))
    # inside; at the borders the filter sees fewer pixels
    torch.testing.assert_close(smooth[..., 2:-2], torch.full((1, 1, 16, 12), 0.5))
    assert set(fit(stripes, (16, 16), interpolation="nearest").unique().tolist()) <= {0.0, 1.0}


def test_bilinear_is_the_reference_resampling() -> None:
    images = torch.rand(1, 3, 17, 23)
    expected = functional.interpolate(images, (8, 30), mode="bilinear", antialias=True)
    assert torch.equal(fit(images, (8, 30)), expected)


def gradient() -> torch.Tensor:
    """Return 1 1 10 40: brightness grows from left to right."""
    return torch.linspace(0, 1, 40).expand(1, 1, 10, 40)


def test_squash_keeps_all_shorter_keeps_the_centre_pad_repeats_the_border() -> None:
    squashed, cropped, padded = (fit(gradient(), (10, 10), resize=resize) for resize in RESIZES)
    assert squashed[0, 0, 0, -1] - squashed[0, 0, 0, 0] > 0.85
    torch.testing.assert_close(cropped, gradient()[..., 15:25])
    middle = padded[0, 0, 4:6]
    assert middle[0, -1] - middle[0, 0] > 0.85
    torch.testing.assert_close(padded[0, 0, 0], padded[0, 0, 4])


def test_the_crop_fraction_is_the_share_that_is_kept() -> None:
    ramp = torch.linspace(0, 1, 100).expand(1, 1, 100, 100)
    for resize in ("squash", "shorter"):
        kept = fit(ramp, (100, 100), resize=resize, crop_fraction=0.5)
        assert (kept[0, 0, 0, -1] - kept[0, 0, 0, 0]).item() == pytest.approx(0.5, abs=0.02)
        assert kept.mean().item() == pytest.approx(0.5, abs=0.01)


def test_flipping_and_fitting_commute() -> None:
    images = torch.rand(1, 3, 20, 30)
    for resize in RESIZES:
        flipped = fit(images.flip(-1), (10, 11), resize=resize)  # margins that halve evenly
        torch.testing.assert_close(flipped, fit(images, (10, 11), resize=resize).flip(-1))


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
