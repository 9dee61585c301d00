"""Options of `export`, `verify`, `benchmark` and `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tercet.config.commands import ALIASES, OutputConfig, TTAOptions, bound_problems
from tercet.config.parser import CommandOptions, Positional
from tercet.config.run import DataConfig
from tercet.core.errors import raise_problems


@dataclass(frozen=True)
class VerificationConfig:
    """Images on which file and bundle are compared."""

    data: str | None = None
    """Labelled images: folder with one sub-folder per class, table, zip, or data set name."""
    images: tuple[str, ...] = ()
    """Image files or folders."""
    max_images: int = 256
    """Maximum number of images."""

    def __post_init__(self) -> None:
        raise_problems(
            [
                self.data is not None and bool(self.images) and "give data or images, not both",
                self.max_images < 1 and "max_images must be positive",
            ]
        )


@dataclass(frozen=True)
class ExportConfig:
    """Format and content of the file."""

    format: Literal["onnx", "torch"] = "onnx"
    """ONNX, or a torch.export program (.pt2)."""
    int8: bool = False
    """Quantize convolutions and dense layers to 8 bits for members whose accuracy holds; ONNX only."""
    class_activation_maps: bool = False
    """Add class-activation maps as an output, for members that support them; ONNX only."""
    force: bool = False
    """Overwrite an existing file."""


@dataclass(frozen=True)
class VerifyConfig:
    """Reference model."""

    bundle: str | None = None
    """Bundle or run folder that the file was exported from."""

    def __post_init__(self) -> None:
        raise_problems(
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
        raise_problems(
            [
                self.seconds <= 0 and "seconds must be positive",
                min([self.threads or 1, *self.size, *self.batches]) < 1 and "threads, size, batches must be positive",
                self.threads == 0 and "threads must be positive",
                len(self.size) > 2 and "size takes one number, or height and width",
                not self.batches and "batches must not be empty",
            ]
        )


EXPORT = CommandOptions(
    "export",
    "Export a whole ensemble as one verified file. The file contains preprocessing for images of any size, members, "
    "combiner and calibration. An ONNX file runs without PyTorch; --format torch writes a torch.export program, which "
    "runs without Tercet and timm. The export fails if a probability on the run's validation images differs by more "
    "than 1e-4 from the bundle's (with --int8: if accuracy drops by more than half a point).",
    groups=[("", ExportConfig), ("", VerificationConfig), ("", TTAOptions), ("data", DataConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "bundle or run folder"),
        Positional("file", "output file (default: model.onnx or model.pt2)", required=False),
    ],
    aliases=ALIASES,
    examples=["runs/photos-1", "runs/photos-1 photos.onnx --int8", "runs/photos-1 photos.pt2 --format torch"],
)
VERIFY = CommandOptions(
    "verify",
    "Compare an exported file with its bundle on your own images. Reports the largest difference of a probability, the "
    "share of equal predictions, and the accuracy of both; the result is also written next to the file.",
    groups=[("", VerifyConfig), ("", VerificationConfig), ("data", DataConfig), ("", OutputConfig)],
    positionals=[Positional("file", "file written by tercet export")],
    aliases=ALIASES,
    examples=["photos.onnx --bundle runs/photos-1 --data test-set/", "photos.onnx --bundle bundle/ --images more/"],
)
BENCHMARK = CommandOptions(
    "benchmark",
    "Measure latency and throughput of exported files and bundles. Reports median and 95th-percentile latency and "
    "images per second, from decoded images to probabilities; several models are measured round-robin.",
    groups=[("", BenchmarkConfig), ("", OutputConfig)],
    positionals=[Positional("models", "exported files, bundle or run folders", many=True)],
    examples=["photos.onnx", "photos.onnx runs/photos-1 --threads 1"],
)


MEBIBYTE = 2**20
DECODING_BYTES = 24
"""Peak memory per pixel while decoding (WebP; below 17 for the other formats)."""
DECODED_BYTES = 3
"""Memory per pixel of a decoded image."""


@dataclass(frozen=True)
class ServerLimits:
    """Limits on uploads, memory, queue, batches and time."""

    max_upload: int = 32
    """Maximum size of a request body in MiB."""
    max_images: int = 32
    """Maximum number of images per request."""
    max_pixels: int = 25_000_000
    """Maximum image size in pixels, checked in the file header before decoding."""
    memory: int = 640
    """Maximum memory of uploads and decoded images in MiB; requests beyond it get status 503."""
    queue: int = 64
    """Maximum number of images in progress (decoding, waiting, computing); requests beyond it get status 503."""
    max_batch: int = 32
    """Maximum batch size; all images of a batch have the same height and width."""
    batch_time: float = 100.0
    """Target time per batch in milliseconds; slow models get smaller batches."""
    batch_wait: float = 2.0
    """Maximum time in milliseconds that an image waits for other uploads to fill its batch."""
    deadline: float = 10.0
    """Maximum time in seconds from a received request to its response; after it, the request is dropped."""
    receive_timeout: float = 15.0
    """Maximum time in seconds to receive a request, and to send its response."""
    keep_alive: float = 5.0
    """Seconds before an idle connection is closed."""
    grace: float = 10.0
    """Seconds to finish running requests after SIGTERM."""
    connections: int = 20_000
    """Maximum number of open connections; further ones get status 503."""

    def __post_init__(self) -> None:
        numbers = vars(self)
        required = (self.max_pixels * DECODING_BYTES + self.max_upload * MEBIBYTE) // MEBIBYTE + 1
        raise_problems(
            [
                *(f"{name} {value} must be positive" for name, value in numbers.items() if not self._fits(name, value)),
                self.memory < required
                and f"memory {self.memory} is too small: one upload and one image can take {required} MiB",
                self.queue < self.max_images and f"queue {self.queue} must be at least max_images {self.max_images}",
            ]
        )

    @staticmethod
    def _fits(name: str, value: float) -> bool:
        return value >= 0 if name in ("batch_wait", "grace") else value > 0

    @property
    def upload_bytes(self) -> int:
        """Maximum size of a request body in bytes."""
        return self.max_upload * MEBIBYTE


_LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class ServeConfig:
    """Address, model and supervision."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""
    port: int = 8000
    """Port to listen on; 0 selects a free port."""
    allow_host: tuple[str, ...] = ()
    """Additional accepted Host headers, such as the public name behind a proxy."""
    threads: int | None = None
    """Threads of the model (default: one per core)."""
    name: str | None = None
    """Model name on the page (default: name of the file or run folder)."""
    supervise: bool = True
    """Run a supervisor that holds the port and restarts the server after a crash."""
    max_memory: int | None = None
    """Address-space limit in MiB for loading untrusted files (default: no limit)."""
    load_timeout: float | None = None
    """Time limit for loading the model in seconds (default: no limit; 120 with --max-memory)."""

    @property
    def load_seconds(self) -> float | None:
        """Time limit for loading; always set with `max_memory`, as native code without memory may hang."""
        return _LOAD_SECONDS if self.load_timeout is None and self.max_memory is not None else self.load_timeout

    def __post_init__(self) -> None:
        raise_problems(
            [
                *bound_problems(self.max_memory, "load_timeout", self.load_timeout),
                not 0 <= self.port < 65536 and f"port {self.port} must lie in 0..65535",
                self.threads is not None and self.threads < 1 and "threads must be positive",
            ]
        )


SERVE = CommandOptions(
    "serve",
    "Serve a model over HTTP, with a web page. A bundle is first exported to a temporary file in a child process. POST "
    "images to /v1/predict; the API is documented at /docs.",
    groups=[("", ServeConfig), ("limits", ServerLimits), ("", OutputConfig)],
    positionals=[Positional("model", "exported file, bundle or run folder")],
    examples=["model.onnx", "runs/photos-1 --port 8080", "model.onnx --host 0.0.0.0 --allow-host classify.example.org"],
)
