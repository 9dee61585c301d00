"""What an exported file, ONNX's or PyTorch's, shows a network is what loaders show it, for images of any size."""

from functools import cache
from itertools import product

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from tercet.core.errors import ModelError
from tercet.core.types import InputSpec
from tercet.data.loader import add_preprocessing as prepared_by_loaders
from tercet.export.onnx_graph import Graph
from tercet.export.onnx_members import trace
from tercet.export.onnx_preprocessing import InputGeometry, add_preprocessing
from tercet.export.torch_preprocessing import Preprocess

TOLERANCE = 2e-5  # weights of the filter are computed in 32 bits, by torch and by onnxruntime alike


@cache
def session(geometry: InputGeometry) -> onnxruntime.InferenceSession:
    graph = Graph()
    graph.copy_to(add_preprocessing(graph, "images", geometry), "pixels")
    taken = helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", "H", "W", 3])
    given_back = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", geometry.channels, *geometry.size])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.model("preprocessing", [taken], [given_back]).SerializeToString(), options
    )


def shown_by(road: str, geometry: InputGeometry, images: np.ndarray) -> np.ndarray:
    if road == "onnx":
        return session(geometry).run(None, {"images": images})[0]
    return Preprocess(geometry)(torch.tensor(images)).numpy()


def gap(
    road: str, spec: InputSpec, picture: tuple[int, int], *, seed: int = 0, count: int = 2, grey: bool = False
) -> float:
    """Return the largest difference between a road and the loaders; images of noise are the hardest."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *picture, 1 if grey else 3), dtype=np.uint8)
    shown = np.repeat(images, 3, axis=3) if grey else images
    found = shown_by(road, InputGeometry.of(spec), shown)
    expected = np.stack([prepared_by_loaders(image, spec).numpy() for image in images])
    assert found.shape == expected.shape
    return float(abs(found - expected).max())


ROADS = pytest.mark.parametrize("road", ["onnx", "torch"])
SIDES = st.one_of(st.integers(1, 12), st.integers(1, 300))


@ROADS
@settings(max_examples=150, deadline=None, derandomize=True)
@example((1, 50), "bilinear", "border", 1.0, 3)  # scaled to one row
@example((50, 1), "bicubic", "border", 1.0, 1)
@example((1, 1), "bicubic", "center", 0.9, 1)
@example((16, 24), "bicubic", "squash", 1.0, 3)  # at the right size nothing changes
@given(
    st.tuples(SIDES, SIDES),
    st.sampled_from(["nearest", "bilinear", "bicubic"]),
    st.sampled_from(["squash", "center", "border"]),
    st.sampled_from([1.0, 0.875]),
    st.sampled_from([1, 3]),
)
def test_pictures_of_any_size(
    road: str, picture: tuple[int, int], interpolation: str, crop_mode: str, crop_pct: float, channels: int
) -> None:
    spec = InputSpec((16, 24), channels=channels, interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
    limit = 0.0 if interpolation == "nearest" and channels == 3 else TOLERANCE
    assert gap(road, spec, picture) <= limit


@ROADS
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(1, 64))
def test_the_nearest_pixel_is_the_same_one(road: str, side: int, wanted: int) -> None:
    spec = InputSpec((wanted, 3), interpolation="nearest")
    assert gap(road, spec, (side, 3), count=1) == 0.0


@ROADS
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.tuples(SIDES, SIDES), st.sampled_from([1, 3]))
def test_grey_images_are_shown_as_colour(road: str, picture: tuple[int, int], channels: int) -> None:
    assert gap(road, InputSpec((14, 10), channels=channels), picture, grey=True) <= TOLERANCE


@ROADS
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_at_the_right_size_only_the_scale_changes(interpolation: str, road: str) -> None:
    assert gap(road, InputSpec((28, 28), interpolation=interpolation), (28, 28)) == 0.0


@ROADS
@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photographs(crop_mode: str, interpolation: str, road: str) -> None:
    spec = InputSpec((224, 224), crop_mode=crop_mode, interpolation=interpolation, crop_pct=0.875)
    assert gap(road, spec, (1213, 907), count=1) <= TOLERANCE


class Every(nn.Module):
    """All ways to be shown an image, side by side."""

    def __init__(self, specs: list[InputSpec]) -> None:
        super().__init__()
        self.ways = nn.ModuleList(Preprocess(InputGeometry.of(spec)) for spec in specs)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [way(images) for way in self.ways]


def test_a_program_keeps_no_size() -> None:
    """Traced with one size and asked with others, down to a single pixel and a single image."""
    ways = product(["nearest", "bilinear", "bicubic"], ["squash", "center", "border"], [1, 3])
    specs = [
        InputSpec((9, 7), channels=channels, interpolation=interpolation, crop_mode=crop_mode, crop_pct=0.875)
        for interpolation, crop_mode, channels in ways
    ]
    free = {0: "batch", 1: "height", 2: "width"}
    program = trace(Every(specs), torch.zeros(2, 13, 17, 3, dtype=torch.uint8), free).module()
    for picture, count in (((1, 1), 1), ((1, 30), 5), ((40, 1), 1), ((9, 7), 2), ((64, 48), 1), ((5, 300), 3)):
        images = np.random.default_rng(1).integers(0, 256, (count, *picture, 3), dtype=np.uint8)
        for spec, found in zip(specs, program(torch.tensor(images)), strict=True):
            expected = np.stack([prepared_by_loaders(image, spec).numpy() for image in images])
            assert found.shape == expected.shape
            assert abs(found.numpy() - expected).max() <= TOLERANCE, (spec, picture)


def test_other_channels_cannot_be_made() -> None:
    with pytest.raises(ModelError, match="reads 4 channels"):
        InputGeometry.of(InputSpec((8, 8), channels=4))
