"""The verb that answers over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tercet.deploy.serving.settings import Limits
from tercet.ground.children import Leash
from tercet.ground.result import Answer
from tercet.records.options import Options, Parsed
from tercet.verbs.extras import FOR_FILES, FOR_SERVING, require_extras
from tercet.workflows.options.serve import SERVE, ServeConfig


def _serve(parsed: Parsed) -> Answer:
    leash = Leash.take()
    if leash is None:
        is_folder = Path(parsed.positional["model"]).is_dir()  # a bundle's, which is exported first
        require_extras("servers", {**FOR_FILES, **FOR_SERVING} if is_folder else FOR_SERVING)
        if parsed.of(ServeConfig).supervise:
            return _supervise(parsed)
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
        max_memory=config.max_memory,
        load_timeout=config.load_seconds,
        leash=leash,
    )
    told = {"url": done.url, "requests": done.requests, "seconds": round(done.seconds, 1)}
    return Answer(f"answered {done.requests} request(s) in {done.seconds:.0f} s\n", told)


def _supervise(parsed: Parsed) -> Answer:
    """Let a child serve: this process stays small, and imports nothing that computes."""
    from tercet.workflows.ship.supervised import supervise_serving

    def words(file: Path, name: str) -> list[str]:
        return ["serve", *parsed.to_words("name"), f"--name={name}", "--", str(file)]

    config = parsed.of(ServeConfig)
    model = parsed.positional["model"]
    return Answer.given_elsewhere(supervise_serving(model, words, host=config.host, port=config.port, name=config.name))


SERVING: Mapping[str, tuple[Options, Callable[[Parsed], Answer]]] = {"serve": (SERVE, _serve)}
"""By name, as in `tercet.verbs.VERBS`."""
