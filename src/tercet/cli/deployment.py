"""Commands export, verify, benchmark and serve."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import tercet
from tercet.cli.command import command, phase
from tercet.cli.inference import TTAOptions
from tercet.config.commands import OutputConfig
from tercet.config.deployment import ServerLimits
from tercet.config.fields import Config, bounded
from tercet.config.parser import ParsedArguments
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, Problem
from tercet.core.model_formats import SUFFIXES, is_onnx, is_program
from tercet.core.output import CommandResult, SafeStream, count
from tercet.core.process import CAN_SUPERVISE, ParentLink
from tercet.core.resource_limits import MIN_MEMORY

_ONNX_PACKAGES = {"onnx": "export", "onnxruntime": "export", "onnxscript": "export"}  # package -> extra of Tercet
_SERVER_PACKAGES = dict.fromkeys(
    ("fastapi", "httptools", "onnxruntime", "prometheus-client", "python-multipart", "uvicorn"), "serve"
)


def _require_packages(feature: str, packages: Mapping[str, str]) -> None:
    """Raise if packages are missing, before any work starts.

    Args:
        feature: What needs them, in the plural.
        packages: Extra of Tercet that installs each package.

    Raises:
        ConfigError: A package is not installed.
    """
    missing = [name for name in packages if find_spec(name.replace("-", "_")) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        extras = ",".join(dict.fromkeys(packages[name] for name in missing))
        raise ConfigError(
            f"{feature} need {', '.join(missing)}, which {verb} not installed: pip install 'tercet[{extras}]'"
        )


def _require_onnx_packages(*files: object) -> None:
    """Raise if a file is an ONNX model and its packages are missing; torch programs need none."""
    if not all(map(is_program, files)):
        _require_packages("exported files", _ONNX_PACKAGES)


@dataclass(frozen=True)
class VerificationConfig(Config):
    """Images on which file and bundle are compared."""

    data: str | None = None
    """Labelled images: folder with one sub-folder per class, table, zip, or data set name."""
    images: tuple[str, ...] = ()
    """Image files or folders."""
    max_images: int = bounded(256, above=0)
    """Maximum number of images."""

    def _rules(self) -> Iterable[Problem]:
        if self.data is not None and self.images:
            yield Problem("give data or images, not both", "data", "images")


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
class VerifyConfig(Config):
    """Reference model."""

    bundle: str = ""
    """Bundle or run folder that the file was exported from."""

    def _rules(self) -> Iterable[Problem]:
        if not self.bundle:
            yield Problem("bundle is missing: give the bundle or run folder that the file was exported from", "bundle")


@dataclass(frozen=True)
class BenchmarkConfig(Config):
    """Measurement of latency and throughput."""

    threads: int | None = bounded(None, above=0)
    """Threads per model (default: one per core)."""
    seconds: float = bounded(3.0, above=0)
    """Measuring time per model and batch size, in seconds."""
    size: tuple[int, ...] = bounded((), above=0)
    """Image height and width, or one number for squares (default: input size of the first member)."""
    batches: tuple[int, ...] = bounded((1, 8, 32), above=0)
    """Batch sizes."""

    def _rules(self) -> Iterable[Problem]:
        if len(self.size) > 2:
            yield Problem("size takes one number, or height and width", "size")
        if not self.batches:
            yield Problem("batches must not be empty", "batches")


_LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class ServeConfig(Config):
    """Address, model and supervision."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""
    port: int = bounded(8000, least=0, most=65535)
    """Port to listen on; 0 selects a free port."""
    allow_host: tuple[str, ...] = ()
    """Additional accepted Host headers, such as the public name behind a proxy."""
    threads: int | None = bounded(None, above=0)
    """Threads of the model (default: one per core)."""
    name: str | None = None
    """Model name on the page (default: name of the file or run folder)."""
    supervise: bool = True
    """Run a supervisor that holds the port and restarts the server after a crash."""
    max_memory: int | None = bounded(None, least=MIN_MEMORY)
    """Address-space limit in MiB for loading untrusted files (default: no limit)."""
    load_timeout: float | None = bounded(None, above=0, below=1e9)
    """Time limit for loading the model in seconds (default: no limit; 120 with --max-memory)."""

    @property
    def load_seconds(self) -> float | None:
        """Time limit for loading; always set with `max_memory`, as native code without memory may hang."""
        return _LOAD_SECONDS if self.load_timeout is None and self.max_memory is not None else self.load_timeout


@command("Deployment")
def export(
    bundle: Annotated[str, "bundle or run folder"],
    file: Annotated[str | None, "output file (default: model.onnx or model.pt2)"] = None,
    *,
    config: ExportConfig,
    images: VerificationConfig,
    tta: TTAOptions,
    reading: DataConfig,
) -> Any:
    """Export a whole ensemble as one verified file.

    The file contains preprocessing for images of any size, members, combiner and calibration. An ONNX file runs without
    PyTorch; --format torch writes a torch.export program, which runs without Tercet and timm. The export fails if a
    probability on the run's validation images differs by more than 1e-4 from the bundle's (with --int8: if accuracy
    drops by more than half a point).

    Examples:
        runs/photos-1
        runs/photos-1 photos.onnx --int8
        runs/photos-1 photos.pt2 --format torch
    """
    serving = ParentLink.from_environment()  # if `serve` exports a bundle, this process ends together with it
    _require_onnx_packages(f"model{SUFFIXES[config.format]}")
    # beside the log of a server, which is JSON lines, only a terminal shows progress
    silent = serving is not None and not sys.stderr.isatty()
    with nullcontext() if silent else phase(f"exporting {bundle}"):
        return tercet.export_model(bundle, file, **vars(config), **vars(tta), **vars(images), config=reading)


@command("Deployment")
def verify(
    file: Annotated[str, "file written by tercet export"],
    *,
    config: VerifyConfig,
    images: VerificationConfig,
    reading: DataConfig,
) -> Any:
    """Compare an exported file with its bundle on your own images.

    Reports the largest difference of a probability, the share of equal predictions, and the accuracy of both; the
    result is also written next to the file.

    Examples:
        photos.onnx --bundle runs/photos-1 --data test-set/
        photos.onnx --bundle bundle/ --images more/
    """
    _require_onnx_packages(file)
    with phase(f"verifying {file}"):
        result = tercet.verify(file, config.bundle, **vars(images), config=reading)
    message = "" if result.passed else "MISMATCH: the outputs of the file and the bundle differ; export it again\n"
    return CommandResult(result.to_text() + message, result.to_dict(), exit_code=0 if result.passed else 4)


@command("Deployment")
def benchmark(
    models: Annotated[tuple[str, ...], "exported files, bundle or run folders"], *, config: BenchmarkConfig
) -> Any:
    """Measure latency and throughput of exported files and bundles.

    Reports median and 95th-percentile latency and images per second, from decoded images to probabilities; several
    models are measured round-robin.

    Examples:
        photos.onnx
        photos.onnx runs/photos-1 --threads 1
    """
    _require_onnx_packages(*filter(is_onnx, models))
    size = (config.size[0], config.size[-1]) if config.size else None
    with phase("measuring"):
        return tercet.benchmark(models, **{**vars(config), "size": size})


@command("Deployment")
def serve(
    model: Annotated[str, "exported file, bundle or run folder"],
    *,
    config: ServeConfig,
    limits: ServerLimits,
    parsed: ParsedArguments,
) -> Any:
    """Serve a model over HTTP, with a web page.

    A bundle is first exported to a temporary file in a child process. POST images to /v1/predict; the API is documented
    at /docs.

    Examples:
        model.onnx
        runs/photos-1 --port 8080
        model.onnx --host 0.0.0.0 --allow-host classify.example.org
    """
    parent = ParentLink.from_environment()
    if parent is None:
        is_bundle = Path(model).is_dir()  # exported first
        _require_packages("servers", {**_ONNX_PACKAGES, **_SERVER_PACKAGES} if is_bundle else _SERVER_PACKAGES)
        if config.supervise and CAN_SUPERVISE:
            return _supervise(model, config, parsed)
        if config.supervise:
            warnings.warn("this system cannot restart the server after a crash: serving from one process", stacklevel=2)
    from tercet.serve.server import serve_model

    def on_listening(url: str) -> None:
        restarted = parent is not None and parent.settings["restarts"]
        if not restarted and not parsed.of(OutputConfig).json:
            # no browser opens the address that stands for all addresses of the machine
            address = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
            SafeStream(sys.stdout).write(f"open {address} in a browser; Ctrl-C stops the server\n")

    options = {key: value for key, value in vars(config).items() if key != "supervise"}
    options |= {"load_timeout": config.load_seconds, "on_listening": on_listening}
    result = serve_model(model, **options, limits=limits, parent=parent)
    document = {"url": result.url, "requests": result.requests, "seconds": round(result.seconds, 1)}
    return CommandResult(f"{count(result.requests, 'request')} served in {result.seconds:.0f} s\n", document)


def _supervise(model: str, config: ServeConfig, parsed: ParsedArguments) -> CommandResult:
    """Serve from a child process; this process stays small and does not import onnxruntime."""
    from tercet.serve.supervisor import serve_supervised

    def child_arguments(file: Path, name: str) -> list[str]:
        return ["serve", *parsed.to_arguments("name"), f"--name={name}", "--", str(file)]

    return CommandResult.from_exit_code(
        serve_supervised(model, child_arguments, host=config.host, port=config.port, name=config.name)
    )
