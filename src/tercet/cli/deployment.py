"""Commands export, verify, benchmark and serve."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from tercet.config import commands as options
from tercet.config import deployment
from tercet.config.deployment import ServeConfig, ServerLimits
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError
from tercet.core.model_formats import SUFFIXES, is_onnx, is_program
from tercet.core.output import CommandResult
from tercet.core.process import CAN_SUPERVISE, ParentLink

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


def _image_options(parsed: ParsedArguments) -> dict[str, Any]:
    """Return the options that select the images used for verification."""
    config = parsed.of(deployment.VerificationConfig)
    return {
        "data": config.data,
        "images": config.images,
        "max_images": config.max_images,
        "config": parsed.of(DataConfig),
    }


def _export(parsed: ParsedArguments) -> CommandResult:
    ParentLink.from_environment()  # if `serve` exports a bundle, this process ends together with it
    config = parsed.of(deployment.ExportConfig)
    _require_onnx_packages(f"model{SUFFIXES[config.format]}")
    from tercet.export.export import export_model

    result = export_model(
        parsed.positional["bundle"],
        parsed.positional["file"],
        format=config.format,
        int8=config.int8,
        class_activation_maps=config.class_activation_maps,
        tta=parsed.of(options.TTAOptions).tta,
        force=config.force,
        **_image_options(parsed),
    )
    return CommandResult(result.to_text(), result.to_dict())


def _verify(parsed: ParsedArguments) -> CommandResult:
    _require_onnx_packages(parsed.positional["file"])
    from tercet.export.verify import verify

    bundle = cast("str", parsed.of(deployment.VerifyConfig).bundle)
    result = verify(parsed.positional["file"], bundle, **_image_options(parsed))
    message = "" if result.passed else "MISMATCH: the outputs of the file and the bundle differ; export it again\n"
    return CommandResult(result.to_text() + message, result.to_dict(), exit_code=0 if result.passed else 4)


def _benchmark(parsed: ParsedArguments) -> CommandResult:
    _require_onnx_packages(*filter(is_onnx, parsed.positional["models"]))
    from tercet.export.benchmark import benchmark

    config = parsed.of(deployment.BenchmarkConfig)
    result = benchmark(
        parsed.positional["models"],
        threads=config.threads,
        seconds=config.seconds,
        size=(config.size[0], config.size[-1]) if config.size else None,
        batches=config.batches,
    )
    return CommandResult(result.to_text(), result.to_dict())


def _serve(parsed: ParsedArguments) -> CommandResult:
    parent = ParentLink.from_environment()
    if parent is None:
        is_bundle = Path(parsed.positional["model"]).is_dir()  # exported first
        _require_packages("servers", {**_ONNX_PACKAGES, **_SERVER_PACKAGES} if is_bundle else _SERVER_PACKAGES)
        if parsed.of(ServeConfig).supervise and CAN_SUPERVISE:
            return _supervise(parsed)
        if parsed.of(ServeConfig).supervise:
            warnings.warn("this system cannot restart the server after a crash: serving from one process", stacklevel=2)
    from tercet.serve.server import serve_model

    config = parsed.of(ServeConfig)
    result = serve_model(
        parsed.positional["model"],
        host=config.host,
        port=config.port,
        allow_host=config.allow_host,
        threads=config.threads,
        name=config.name,
        limits=parsed.of(ServerLimits),
        max_memory=config.max_memory,
        load_timeout=config.load_seconds,
        parent=parent,
    )
    document = {"url": result.url, "requests": result.requests, "seconds": round(result.seconds, 1)}
    return CommandResult(f"{result.requests} request(s) served in {result.seconds:.0f} s\n", document)


def _supervise(parsed: ParsedArguments) -> CommandResult:
    """Serve from a child process; this process stays small and does not import onnxruntime."""
    from tercet.serve.supervisor import serve_supervised

    def child_arguments(file: Path, name: str) -> list[str]:
        return ["serve", *parsed.to_arguments("name"), f"--name={name}", "--", str(file)]

    config = parsed.of(ServeConfig)
    model = parsed.positional["model"]
    return CommandResult.from_exit_code(
        serve_supervised(model, child_arguments, host=config.host, port=config.port, name=config.name)
    )


DEPLOYMENT_COMMANDS: Mapping[str, tuple[CommandOptions, Callable[[ParsedArguments], CommandResult]]] = {
    "export": (deployment.EXPORT, _export),
    "verify": (deployment.VERIFY, _verify),
    "benchmark": (deployment.BENCHMARK, _benchmark),
    "serve": (deployment.SERVE, _serve),
}
"""Options and implementation by name, as in `tercet.cli.commands.COMMANDS`."""
