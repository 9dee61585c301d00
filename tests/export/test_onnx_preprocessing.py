"""Preprocessing of exported files equals that of the data loaders, for images of any size, in both formats."""

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
from tercet.data.loader import prepare
from tercet.export.onnx_graph import Graph
from tercet.export.onnx_preprocessing import add_preprocessing
from tercet.export.torch_preprocessing import DynamicPreprocess, input_geometry
from tercet.export.tracing import trace

TOLERANCE = 2e-5  # torch and onnxruntime compute the filter weights in 32 bits


@cache
def session(geometry: InputSpec) -> onnxruntime.InferenceSession:
    graph = Graph()
    graph.copy_to(add_preprocessing(graph, "images", geometry), "pixels")
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", "H", "W", 3])
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", geometry.channels, *geometry.size])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.model("preprocessing", [images], [pixels]).SerializeToString(), options)


def preprocess(form: str, geometry: InputSpec, images: np.ndarray) -> np.ndarray:
    if form == "onnx":
        return session(geometry).run(None, {"images": images})[0]
    return DynamicPreprocess(geometry)(torch.tensor(images)).numpy()


def gap(
    form: str, spec: InputSpec, size: tuple[int, int], *, seed: int = 0, count: int = 2, grey: bool = False
) -> float:
    """Return the largest difference between a format and the loaders on images of noise."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *size, 1 if grey else 3), dtype=np.uint8)
    pixels = preprocess(form, input_geometry(spec), np.repeat(images, 3, axis=3) if grey else images)
    expected = np.stack([prepare(image, spec).numpy() for image in images])
    assert pixels.shape == expected.shape
    return float(abs(pixels - expected).max())


FORMATS = pytest.mark.parametrize("form", ["onnx", "torch"])
SIDES = st.one_of(st.integers(1, 12), st.integers(1, 300))


@FORMATS
@settings(max_examples=100, deadline=None, derandomize=True)
@example((1, 50), "bilinear", "border", 1.0, 3)  # resized to one row
@example((50, 1), "bicubic", "border", 1.0, 1)
@example((1, 1), "bicubic", "center", 0.9, 1)
@example((16, 24), "bicubic", "squash", 1.0, 3)
@given(
    st.tuples(SIDES, SIDES),
    st.sampled_from(["nearest", "bilinear", "bicubic"]),
    st.sampled_from(["squash", "center", "border"]),
    st.sampled_from([1.0, 0.875]),
    st.sampled_from([1, 3]),
)
def test_images_of_any_size(
    form: str, size: tuple[int, int], interpolation: str, crop_mode: str, crop_pct: float, channels: int
) -> None:
    spec = InputSpec((16, 24), channels=channels, interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct)
    limit = 0.0 if interpolation == "nearest" and channels == 3 else TOLERANCE
    assert gap(form, spec, size) <= limit


@FORMATS
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(1, 64))
def test_nearest_interpolation_selects_the_same_pixels(form: str, side: int, target: int) -> None:
    spec = InputSpec((target, 3), interpolation="nearest")
    assert gap(form, spec, (side, 3), count=1) == 0.0


@FORMATS
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.tuples(SIDES, SIDES), st.sampled_from([1, 3]))
def test_greyscale_images_are_converted(form: str, size: tuple[int, int], channels: int) -> None:
    assert gap(form, InputSpec((14, 10), channels=channels), size, grey=True) <= TOLERANCE


@FORMATS
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_of_the_target_size_are_exact(interpolation: str, form: str) -> None:
    assert gap(form, InputSpec((28, 28), interpolation=interpolation), (28, 28)) == 0.0


@FORMATS
@pytest.mark.parametrize(
    ("crop_mode", "interpolation"), [("squash", "bilinear"), ("center", "bicubic"), ("border", "bilinear")]
)
def test_large_images(crop_mode: str, interpolation: str, form: str) -> None:
    spec = InputSpec((224, 224), crop_mode=crop_mode, interpolation=interpolation, crop_pct=0.875)
    assert gap(form, spec, (1213, 907), count=1) <= TOLERANCE


class PreprocessAll(nn.Module):
    """Several preprocessings of the same images."""

    def __init__(self, specs: list[InputSpec]) -> None:
        super().__init__()
        self.modules_of_specs = nn.ModuleList(DynamicPreprocess(input_geometry(spec)) for spec in specs)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [module(images) for module in self.modules_of_specs]


def test_a_program_accepts_other_sizes_than_the_traced_one() -> None:
    """Down to a single pixel and a single image."""
    combinations = product(["nearest", "bilinear", "bicubic"], ["squash", "center", "border"])
    specs = [
        InputSpec((9, 7), channels=(1, 3)[index % 2], interpolation=interpolation, crop_mode=crop_mode, crop_pct=0.875)
        for index, (interpolation, crop_mode) in enumerate(combinations)
    ]
    dynamic = {0: "batch", 1: "height", 2: "width"}
    program = trace(PreprocessAll(specs), torch.zeros(2, 13, 17, 3, dtype=torch.uint8), dynamic).module()
    for size, count in (((1, 1), 1), ((1, 30), 5), ((40, 1), 1), ((9, 7), 2), ((64, 48), 1), ((5, 300), 3)):
        images = np.random.default_rng(1).integers(0, 256, (count, *size, 3), dtype=np.uint8)
        for spec, pixels in zip(specs, program(torch.tensor(images)), strict=True):
            expected = np.stack([prepare(image, spec).numpy() for image in images])
            assert pixels.shape == expected.shape
            assert abs(pixels.numpy() - expected).max() <= TOLERANCE, (spec, size)


def test_channels_other_than_grey_and_colour_are_refused() -> None:
    with pytest.raises(ModelError, match="reads 4 channels"):
        input_geometry(InputSpec((8, 8), channels=4))
