"""The options of the verbs that turn a bundle into a file, and prove and measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tercet.ground.errors import require
from tercet.records.config import DataConfig
from tercet.records.options import Options, Positional
from tercet.workflows.options.run import ALIASES, OutputConfig, ViewsConfig

_ALIASES = {**ALIASES, "data": "data_set"}


@dataclass(frozen=True)
class ShownConfig:
    """Which images the file and the bundle are both asked about."""

    data_set: str | None = None
    """Labelled images to ask about, also --data: folder by class, table, zip, or name of a data set."""
    images: tuple[str, ...] = ()
    """Image files, or folders of them, to ask about."""
    most: int = 256
    """Most images to ask about."""

    def __post_init__(self) -> None:
        require(
            [
                self.data_set is not None and bool(self.images) and "give data_set or images, not both",
                self.most < 1 and "most must be positive",
            ]
        )


@dataclass(frozen=True)
class ExportConfig:
    """What the file holds."""

    format: Literal["onnx", "torch"] = "onnx"
    """ONNX, for any runtime, or a program of PyTorch that torch.export.load reads (.pt2)."""
    int8: bool = False
    """Let convolutions and dense layers compute in 8 bits, member by member, where accuracy holds; ONNX only."""
    maps: bool = False
    """Let the file tell where its networks saw the class, as far as they can; ONNX only."""
    force: bool = False
    """Replace an exported file of the same name."""


@dataclass(frozen=True)
class VerifyConfig:
    """What the file is compared with."""

    bundle: str | None = None
    """The bundle's folder, or its run's, that the file was exported from."""

    def __post_init__(self) -> None:
        require([self.bundle is None and "bundle is missing: the bundle's folder that the file was exported from"])


@dataclass(frozen=True)
class BenchmarkConfig:
    """How speed is measured."""

    threads: int | None = None
    """Threads an answer (default: one a core)."""
    seconds: float = 3.0
    """Time for each model and number of images."""
    size: tuple[int, ...] = ()
    """Height and width of the images, or one number for a square (default: what the first member wants)."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Numbers of images an answer."""

    def __post_init__(self) -> None:
        require(
            [
                self.seconds <= 0 and "seconds must be positive",
                min([self.threads or 1, *self.size, *self.batches]) < 1 and "threads, size, batches must be positive",
                self.threads == 0 and "threads must be positive",
                len(self.size) > 2 and "size takes one number, or height and width",
                not self.batches and "batches names no number of images",
            ]
        )


EXPORT = Options(
    "export",
    "Write a whole ensemble as one file, and prove it. The file takes images of any size and holds preprocessing, "
    "members, combiner and calibration. An ONNX file needs no PyTorch; --format torch writes a program for PyTorch, "
    "which needs neither Tercet nor timm. It is then asked about validation images of the run, and "
    "refused if any probability differs by more than 1e-4 (with --int8: if accuracy falls by more than half a point).",
    groups=[("", ExportConfig), ("", ShownConfig), ("", ViewsConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "a bundle's folder, or a run's"),
        Positional("file", "where to write (default: model.onnx, or model.pt2)", required=False),
    ],
    aliases=_ALIASES,
    examples=["runs/photos-1", "runs/photos-1 photos.onnx --int8", "runs/photos-1 photos.pt2 --format torch"],
)
VERIFY = Options(
    "verify",
    "Compare an exported file with its bundle on images of your own. Told are the largest difference of a "
    "probability, how many answers are the same, and the accuracy of both; it is also left beside the file.",
    groups=[("", VerifyConfig), ("", ShownConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[Positional("file", "a file that tercet export wrote")],
    aliases=_ALIASES,
    examples=["photos.onnx --bundle runs/photos-1 --data test-set/", "photos.onnx --bundle bundle/ --images more/"],
)
BENCHMARK = Options(
    "benchmark-model",
    "Measure how fast exported files and bundles answer. Told are median and 95th percentile of the latency, and "
    "images a second, from decoded images to probabilities; several models take turns.",
    groups=[("", BenchmarkConfig), ("", OutputConfig)],
    positionals=[Positional("models", "exported files, bundles' folders, or runs'", many=True)],
    examples=["photos.onnx", "photos.onnx runs/photos-1 --threads 1"],
)
