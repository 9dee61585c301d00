"""Commands export, verify, benchmark and serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from tercet.cli.extras import FOR_FILES, FOR_SERVING, require_extras
from tercet.config import commands as verbs
from tercet.config import deployment as ships
from tercet.config.deployment import SERVE, ServeConfig, ServerLimits
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.run import DataConfig
from tercet.core.model_formats import SUFFIXES, is_onnx, is_program
from tercet.core.process import ParentLink
from tercet.core.result import CommandResult


def _shown(parsed: ParsedArguments) -> dict[str, Any]:
    """Return which images are asked about."""
    config = parsed.of(ships.VerificationConfig)
    return {
        "data": config.data,
        "images": config.images,
        "max_images": config.max_images,
        "config": parsed.of(DataConfig),
    }


def _require_extras(*files: object) -> None:
    """Refuse ONNX files where their libraries are missing; programs of PyTorch need none."""
    if not all(map(is_program, files)):
        require_extras("exported files", FOR_FILES)


def _export(parsed: ParsedArguments) -> CommandResult:
    ParentLink.from_environment()  # where `serve` exports a bundle, this process ends with that one
    config, (bundle, file) = parsed.of(ships.ExportConfig), (parsed.positional[name] for name in ("bundle", "file"))
    _require_extras(f"model{SUFFIXES[config.format]}")
    from tercet.export.export import export_model

    tta = parsed.of(verbs.TTAOptions).tta
    wanted: dict[str, Any] = {
        "int8": config.int8,
        "class_activation_maps": config.class_activation_maps,
        "tta": tta,
        "force": config.force,
    }
    done = export_model(bundle, file, format=config.format, **wanted, **_shown(parsed))
    return CommandResult(done.to_text(), done.to_dict())


def _verify(parsed: ParsedArguments) -> CommandResult:
    _require_extras(parsed.positional["file"])
    from tercet.export.verify import verify

    bundle = cast("str", parsed.of(ships.VerifyConfig).bundle)
    found = verify(parsed.positional["file"], bundle, **_shown(parsed))
    told = "" if found.passed else "NOT THE SAME: the file answers otherwise than the bundle; export it anew\n"
    return CommandResult(found.to_text() + told, found.to_dict(), exit_code=0 if found.passed else 4)


def _benchmark(parsed: ParsedArguments) -> CommandResult:
    _require_extras(*filter(is_onnx, parsed.positional["models"]))
    from tercet.export.benchmark import benchmark

    config = parsed.of(ships.BenchmarkConfig)
    size = (config.size[0], config.size[-1]) if config.size else None
    found = benchmark(
        parsed.positional["models"],
        threads=config.threads,
        seconds=config.seconds,
        size=size,
        batches=config.batches,
    )
    return CommandResult(found.to_text(), found.to_dict())


SHIPPING: Mapping[str, tuple[CommandOptions, Callable[[ParsedArguments], CommandResult]]] = {
    "export": (ships.EXPORT, _export),
    "verify": (ships.VERIFY, _verify),
    "benchmark": (ships.BENCHMARK, _benchmark),
}
"""By name, as in `tercet.cli.commands.VERBS`."""


def _serve(parsed: ParsedArguments) -> CommandResult:
    leash = ParentLink.from_environment()
    if leash is None:
        is_folder = Path(parsed.positional["model"]).is_dir()  # a bundle's, which is exported first
        require_extras("servers", {**FOR_FILES, **FOR_SERVING} if is_folder else FOR_SERVING)
        if parsed.of(ServeConfig).supervise:
            return _supervise(parsed)
    from tercet.serve.supervisor import serve_model

    config = parsed.of(ServeConfig)
    done = serve_model(
        parsed.positional["model"],
        host=config.host,
        port=config.port,
        allow_host=config.allow_host,
        threads=config.threads,
        name=config.name,
        limits=parsed.of(ServerLimits),
        max_memory=config.max_memory,
        load_timeout=config.load_seconds,
        parent=leash,
    )
    told = {"url": done.url, "requests": done.requests, "seconds": round(done.seconds, 1)}
    return CommandResult(f"answered {done.requests} request(s) in {done.seconds:.0f} s\n", told)


def _supervise(parsed: ParsedArguments) -> CommandResult:
    """Let a child serve: this process stays small, and imports nothing that computes."""
    from tercet.serve.supervisor import serve_supervised

    def words(file: Path, name: str) -> list[str]:
        return ["serve", *parsed.to_arguments("name"), f"--name={name}", "--", str(file)]

    config = parsed.of(ServeConfig)
    model = parsed.positional["model"]
    return CommandResult.from_exit_code(
        serve_supervised(model, words, host=config.host, port=config.port, name=config.name)
    )


SERVING: Mapping[str, tuple[CommandOptions, Callable[[ParsedArguments], CommandResult]]] = {"serve": (SERVE, _serve)}
"""By name, as in `tercet.cli.commands.VERBS`."""
