"""Options of `export`, `verify` and `benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tercet.ground.errors import require
from tercet.records.config import DataConfig
from tercet.records.options import Options, Positional
from tercet.workflows.options.run import ALIASES, OutputConfig, ViewsConfig


@dataclass(frozen=True)
class ShownConfig:
    """Images on which the file is compared with the bundle."""

    data: str | None = None
    """Labelled images: folder with one sub-folder per class, table, zip, or data set name."""
    images: tuple[str, ...] = ()
    """Image files or folders."""
    max_images: int = 256
    """Maximum number of images."""

    def __post_init__(self) -> None:
        require(
            [
                self.data is not None and bool(self.images) and "give data or images, not both",
                self.max_images < 1 and "max_images must be positive",
            ]
        )


@dataclass(frozen=True)
class ExportConfig:
    """Format and contents of the file."""

    format: Literal["onnx", "torch"] = "onnx"
    """ONNX, or a torch.export program (.pt2)."""
    int8: bool = False
    """Quantize convolutions and dense layers to 8 bits for members whose accuracy holds; ONNX only."""
    class_activation_maps: bool = False
    """Add class-activation maps as an output, for members that support them; ONNX only."""
    force: bool = False
    """Replace an exported file of the same name."""


@dataclass(frozen=True)
class VerifyConfig:
    """Reference model."""

    bundle: str | None = None
    """Bundle or run folder that the file was exported from."""

    def __post_init__(self) -> None:
        require(
            [self.bundle is None and "bundle is missing: give the bundle or run folder that the file was exported from"]
        )


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measurement of latency and throughput."""

    threads: int | None = None
    """Threads per model (default: one per core)."""
    seconds: float = 3.0
    """Measuring time per model and batch size, in seconds."""
    size: tuple[int, ...] = ()
    """Image height and width, or one number for squares (default: input size of the first member)."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Batch sizes."""

    def __post_init__(self) -> None:
        require(
            [
                self.seconds <= 0 and "seconds must be positive",
                min([self.threads or 1, *self.size, *self.batches]) < 1 and "threads, size, batches must be positive",
                self.threads == 0 and "threads must be positive",
                len(self.size) > 2 and "size takes one number, or height and width",
                not self.batches and "batches must not be empty",
            ]
        )


EXPORT = Options(
    "export",
    "Export a whole ensemble as one verified file. The file contains preprocessing for images of any size, members, "
    "combiner and calibration. An ONNX file runs without PyTorch; --format torch writes a torch.export program, which "
    "runs without Tercet and timm. The export fails if a probability on the run's validation images differs by more "
    "than 1e-4 from the bundle's (with --int8: if accuracy drops by more than half a point).",
    groups=[("", ExportConfig), ("", ShownConfig), ("", ViewsConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "bundle or run folder"),
        Positional("file", "output file (default: model.onnx or model.pt2)", required=False),
    ],
    aliases=ALIASES,
    examples=["runs/photos-1", "runs/photos-1 photos.onnx --int8", "runs/photos-1 photos.pt2 --format torch"],
)
VERIFY = Options(
    "verify",
    "Compare an exported file with its bundle on your own images. Reports the largest difference of a probability, the "
    "share of equal predictions, and the accuracy of both; the result is also written next to the file.",
    groups=[("", VerifyConfig), ("", ShownConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[Positional("file", "file written by tercet export")],
    aliases=ALIASES,
    examples=["photos.onnx --bundle runs/photos-1 --data test-set/", "photos.onnx --bundle bundle/ --images more/"],
)
BENCHMARK = Options(
    "benchmark",
    "Measure latency and throughput of exported files and bundles. Reports median and 95th-percentile latency and "
    "images per second, from decoded images to probabilities; several models are measured round-robin.",
    groups=[("", BenchmarkConfig), ("", OutputConfig)],
    positionals=[Positional("models", "exported files, bundle or run folders", many=True)],
    examples=["photos.onnx", "photos.onnx runs/photos-1 --threads 1"],
)
