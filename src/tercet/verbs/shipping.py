"""The verbs that turn a bundle into one file, prove it, and measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from tercet.deploy.formats import SUFFIXES, is_onnx, is_program
from tercet.ground.children import Leash
from tercet.ground.result import Answer
from tercet.records.config import DataConfig
from tercet.records.options import Options, Parsed
from tercet.verbs.extras import FOR_FILES, require_extras
from tercet.workflows.options import run as verbs
from tercet.workflows.options import ship as ships


def _shown(parsed: Parsed) -> dict[str, Any]:
    """Return which images are asked about."""
    config = parsed.of(ships.ShownConfig)
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


def _export(parsed: Parsed) -> Answer:
    Leash.take()  # where `serve` exports a bundle, this process ends with that one
    config, (bundle, file) = parsed.of(ships.ExportConfig), (parsed.positional[name] for name in ("bundle", "file"))
    _require_extras(f"model{SUFFIXES[config.format]}")
    from tercet.workflows.ship.export import export_model

    tta = parsed.of(verbs.ViewsConfig).tta
    wanted: dict[str, Any] = {
        "int8": config.int8,
        "class_activation_maps": config.class_activation_maps,
        "tta": tta,
        "force": config.force,
    }
    done = export_model(bundle, file, format=config.format, **wanted, **_shown(parsed))
    return Answer(done.to_text(), done.to_dict())


def _verify(parsed: Parsed) -> Answer:
    _require_extras(parsed.positional["file"])
    from tercet.workflows.ship.verify import verify

    bundle = cast("str", parsed.of(ships.VerifyConfig).bundle)
    found = verify(parsed.positional["file"], bundle, **_shown(parsed))
    told = "" if found.passed else "NOT THE SAME: the file answers otherwise than the bundle; export it anew\n"
    return Answer(found.to_text() + told, found.to_dict(), exit_code=0 if found.passed else 4)


def _benchmark(parsed: Parsed) -> Answer:
    _require_extras(*filter(is_onnx, parsed.positional["models"]))
    from tercet.workflows.ship.benchmark_model import benchmark

    config = parsed.of(ships.BenchmarkConfig)
    size = (config.size[0], config.size[-1]) if config.size else None
    found = benchmark(
        parsed.positional["models"],
        threads=config.threads,
        seconds=config.seconds,
        size=size,
        batches=config.batches,
    )
    return Answer(found.to_text(), found.to_dict())


SHIPPING: Mapping[str, tuple[Options, Callable[[Parsed], Answer]]] = {
    "export": (ships.EXPORT, _export),
    "verify": (ships.VERIFY, _verify),
    "benchmark": (ships.BENCHMARK, _benchmark),
}
"""By name, as in `tercet.verbs.VERBS`."""
