"""The verbs that turn a bundle into one file, prove it, and measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, cast

from tercet.deploy.formats import SUFFIXES, is_exported, is_program
from tercet.ground.errors import ConfigError
from tercet.records.config import DataConfig
from tercet.records.options import Options, Parsed
from tercet.verbs.answer import Answer
from tercet.workflows.options import run as verbs
from tercet.workflows.options import ship as ships


def _shown(parsed: Parsed) -> dict[str, Any]:
    """Return which images are asked about."""
    config = parsed.of(ships.ShownConfig)
    return {"data": config.data_set, "images": config.images, "most": config.most, "config": parsed.of(DataConfig)}


def _require_libraries(*needed_for: object) -> None:
    """Refuse what the libraries of an extra are missing for: ONNX files.

    Args:
        *needed_for: Names of files; programs of PyTorch need no extra.

    Raises:
        ConfigError: One is not installed.
    """
    if all(map(is_program, needed_for)):
        return
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        needed = f"{', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise ConfigError(f"exported files need {needed}: pip install 'tercet[export]'")


def _export(parsed: Parsed) -> Answer:
    config, (bundle, file) = parsed.of(ships.ExportConfig), (parsed.positional[name] for name in ("bundle", "file"))
    _require_libraries(f"model{SUFFIXES[config.format]}")
    from tercet.workflows.ship.export import export

    tta = parsed.of(verbs.ViewsConfig).tta
    wanted: dict[str, Any] = {"int8": config.int8, "maps": config.maps, "tta": tta, "force": config.force}
    done = export(bundle, file, format=config.format, **wanted, **_shown(parsed))
    return Answer(done.to_text(), done.to_dict())


def _verify(parsed: Parsed) -> Answer:
    _require_libraries(parsed.positional["file"])
    from tercet.workflows.ship.verify import verify

    bundle = cast("str", parsed.of(ships.VerifyConfig).bundle)
    found = verify(parsed.positional["file"], bundle, **_shown(parsed))
    told = "" if found.passed else "NOT THE SAME: the file answers otherwise than the bundle; export it anew\n"
    return Answer(found.to_text() + told, found.to_dict(), exit_code=0 if found.passed else 4)


def _benchmark(parsed: Parsed) -> Answer:
    _require_libraries(*filter(is_exported, parsed.positional["models"]))
    from tercet.workflows.ship.benchmark_model import benchmark_model

    config = parsed.of(ships.BenchmarkConfig)
    size = (config.size[0], config.size[-1]) if config.size else None
    found = benchmark_model(
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
    "benchmark-model": (ships.BENCHMARK, _benchmark),
}
"""By name, as in `tercet.verbs.VERBS`."""
