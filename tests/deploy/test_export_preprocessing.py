"""What the graph shows a network is what loaders show it, for images of any size."""

from functools import cache

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tercet.data.loading import prepare as prepared_by_loaders
from tercet.deploy.export.graph import Graph
from tercet.deploy.export.preprocessing import Geometry, prepare
from tercet.ground.errors import ModelError
from tercet.records.contracts import InputSpec

TOLERANCE = 2e-5  # weights of the filter are computed in 32 bits, by torch and by onnxruntime alike


@cache
def session(geometry: Geometry) -> onnxruntime.InferenceSession:
    graph = Graph()
    graph.copy_to(prepare(graph, "images", geometry), "pixels")
    taken = helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", "H", "W", 3])
    given_back = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", geometry.channels, *geometry.size])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.model("preprocessing", [taken], [given_back]).SerializeToString(), options
    )


def gap(spec: InputSpec, picture: tuple[int, int], *, seed: int = 0, count: int = 2, grey: bool = False) -> float:
    """Return the largest difference between the graph and the loaders; images of noise are the hardest."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *picture, 1 if grey else 3), dtype=np.uint8)
    shown = np.repeat(images, 3, axis=3) if grey else images
    (found,) = session(Geometry.of(spec)).run(None, {"images": shown})
    expected = np.stack([prepared_by_loaders(image, spec).numpy() for image in images])
    assert found.shape == expected.shape
    return float(abs(found - expected).max())


SIDES = st.one_of(st.integers(1, 12), st.integers(1, 300))


@settings(max_examples=150, deadline=None, derandomize=True)
@example((1, 50), "bilinear", "pad", 1.0, 3)  # scaled to one row
@example((50, 1), "bicubic", "pad", 1.0, 1)
@example((1, 1), "bicubic", "shorter", 0.9, 1)
@example((16, 24), "bicubic", "squash", 1.0, 3)  # at the right size nothing changes
@given(
    st.tuples(SIDES, SIDES),
    st.sampled_from(["nearest", "bilinear", "bicubic"]),
    st.sampled_from(["squash", "shorter", "pad"]),
    st.sampled_from([1.0, 0.875]),
    st.sampled_from([1, 3]),
)
def test_pictures_of_any_size(
    picture: tuple[int, int], interpolation: str, resize: str, crop_fraction: float, channels: int
) -> None:
    spec = InputSpec(
        (16, 24), channels=channels, interpolation=interpolation, resize=resize, crop_fraction=crop_fraction
    )
    limit = 0.0 if interpolation == "nearest" and channels == 3 else TOLERANCE
    assert gap(spec, picture) <= limit


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(1, 64))
def test_the_nearest_pixel_is_the_same_one(side: int, wanted: int) -> None:
    spec = InputSpec((wanted, 3), interpolation="nearest")
    assert gap(spec, (side, 3), count=1) == 0.0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.tuples(SIDES, SIDES), st.sampled_from([1, 3]))
def test_grey_images_are_shown_as_colour(picture: tuple[int, int], channels: int) -> None:
    assert gap(InputSpec((14, 10), channels=channels), picture, grey=True) <= TOLERANCE


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_at_the_right_size_only_the_scale_changes(interpolation: str) -> None:
    assert gap(InputSpec((28, 28), interpolation=interpolation), (28, 28)) == 0.0


@pytest.mark.parametrize("resize", ["squash", "shorter", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photographs(resize: str, interpolation: str) -> None:
    spec = InputSpec((224, 224), resize=resize, interpolation=interpolation, crop_fraction=0.875)
    assert gap(spec, (1213, 907), count=1) <= TOLERANCE


def test_other_channels_cannot_be_made() -> None:
    with pytest.raises(ModelError, match="reads 4 channels"):
        Geometry.of(InputSpec((8, 8), channels=4))
