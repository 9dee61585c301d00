import numpy as np
import pytest
import torch
from torch import Tensor

from tercet.data.transforms import AREA_RANGE, ASPECT_RANGE, erase


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(erased: Tensor) -> list[tuple[int, int, int, int] | None]:
    """Return top, left, height and width of what differs from a plain grey of -1, an image each."""
    found: list[tuple[int, int, int, int] | None] = []
    for image in erased:
        gone = (image != -1).all(0)
        assert bool((gone == (image != -1).any(0)).all())  # all channels alike
        if not gone.any():
            found.append(None)
            continue
        rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert int(gone.sum()) == height * width  # one box without holes
        found.append((int(rows[0]), int(columns[0]), height, width))
    return found


@pytest.mark.parametrize("shape", [(300, 3, 40, 40), (300, 1, 28, 56)])
def test_boxes_have_the_published_areas_and_shapes_and_lie_anywhere(shape: tuple[int, int, int, int]) -> None:
    erased = erase(torch.full(shape, -1.0), 1.0, seeded())
    found = np.array([box for box in boxes(erased) if box is not None])
    height, width = shape[2:]
    assert len(found) == shape[0]
    area, aspect = found[:, 2] * found[:, 3] / (height * width), found[:, 2] / found[:, 3]
    assert AREA_RANGE[0] - 0.01 < area.min() < 0.06 and 0.34 < area.max() < AREA_RANGE[1] + 0.02
    assert ASPECT_RANGE[0] - 0.1 < aspect.min() < 0.6 and 2 < aspect.max() < ASPECT_RANGE[1] + 0.9
    assert found[:, 0].min() == 0 and found[:, 1].min() == 0
    assert (found[:, 0] + found[:, 2]).max() == height and (found[:, 1] + found[:, 3]).max() == width
    noise = erased[erased != -1]
    assert 0 <= float(noise.min()) < 0.01 and 0.99 < float(noise.max()) < 1
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)


def test_the_probability_is_an_images() -> None:
    images = torch.full((400, 1, 8, 8), -1.0)
    touched = [box is not None for box in boxes(erase(images, 0.3, seeded()))]
    assert 0.23 < np.mean(touched) < 0.37
    assert torch.equal(erase(images, 0.0, seeded()), images)


def test_the_generator_decides_and_the_images_given_stay() -> None:
    images = torch.rand(6, 3, 16, 16)
    before = images.clone()
    one = erase(images, 1.0, seeded(1))
    assert torch.equal(one, erase(images, 1.0, seeded(1)))
    assert not torch.equal(one, erase(images, 1.0, seeded(2)))
    assert torch.equal(images, before)


def test_the_same_draws_erase_the_same_part_of_small_and_large_copies() -> None:
    small, large = (boxes(erase(torch.full((50, 1, side, side), -1.0), 0.7, seeded(3))) for side in (48, 192))
    for one, other in zip(small, large, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert np.allclose(np.array(one) * 4, other, atol=4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 50)])
def test_tiny_images_are_no_trouble(size: tuple[int, int]) -> None:
    assert erase(torch.zeros(4, 1, *size), 1.0, seeded()).shape == (4, 1, *size)
