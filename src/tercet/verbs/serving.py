"""The verb that answers over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tercet.deploy.serving.settings import Limits
from tercet.records.options import Options, Parsed
from tercet.verbs.answer import Answer
from tercet.verbs.extras import FOR_FILES, FOR_SERVING, require_extras
from tercet.workflows.options.serve import SERVE, ServeConfig


def _serve(parsed: Parsed) -> Answer:
    is_folder = Path(parsed.positional["model"]).is_dir()  # a bundle's, which is exported first
    require_extras("servers", {**FOR_FILES, **FOR_SERVING} if is_folder else FOR_SERVING)
    from tercet.workflows.ship.serve import serve_model

    config = parsed.of(ServeConfig)
    done = serve_model(
        parsed.positional["model"],
        host=config.host,
        port=config.port,
        allow_host=config.allow_host,
        threads=config.threads,
        name=config.name,
        limits=parsed.of(Limits),
    )
    told = {"url": done.url, "requests": done.requests, "seconds": round(done.seconds, 1)}
    return Answer(f"answered {done.requests} request(s) in {done.seconds:.0f} s\n", told)


SERVING: Mapping[str, tuple[Options, Callable[[Parsed], Answer]]] = {"serve": (SERVE, _serve)}
"""By name, as in `tercet.verbs.VERBS`."""
