"""The options of the verb that serves."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.deploy.serving.settings import Limits
from tercet.ground.errors import require
from tercet.records.options import Options, Positional
from tercet.workflows.options.run import OutputConfig, bound_problems

_LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class ServeConfig:
    """Where the server listens, and what computes."""

    host: str = "127.0.0.1"
    """Address to listen on; only this machine can reach the default."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    allow_host: tuple[str, ...] = ()
    """Other names by which clients call the server, such as the public one behind a proxy."""
    threads: int | None = None
    """Threads of the model (default: one a core)."""
    name: str | None = None
    """What the model is called on the page (default: as its file, or its run's folder)."""
    supervise: bool = True
    """Let a small process hold the port and start the server again where it dies."""
    max_memory: int | None = None
    """MiB of addresses that the process that loads and answers may have; for files of strangers (default: no limit)."""
    load_timeout: float | None = None
    """Seconds in which the model must be loaded (default: no limit, 120 with --max-memory)."""

    @property
    def load_seconds(self) -> float | None:
        """Seconds in which the model must be loaded: without memory native code may also wait for ever."""
        return _LOAD_SECONDS if self.load_timeout is None and self.max_memory is not None else self.load_timeout

    def __post_init__(self) -> None:
        require(
            [
                *bound_problems(self.max_memory, "load_timeout", self.load_timeout),
                not 0 <= self.port < 65536 and f"port {self.port} must lie in 0..65535",
                self.threads is not None and self.threads < 1 and "threads must be positive",
            ]
        )


SERVE = Options(
    "serve",
    "Answer over HTTP, and on a page for people. A bundle is exported first, by another process, to a temporary "
    "file. POST /v1/predict takes images; /v1/model, /health/live, /health/ready, /metrics and /docs tell the rest.",
    groups=[("", ServeConfig), ("limits", Limits), ("", OutputConfig)],
    positionals=[Positional("model", "a file of tercet export, a bundle's folder, or a run's")],
    examples=["model.onnx", "runs/photos-1 --port 8080", "model.onnx --host 0.0.0.0 --allow-host classify.example.org"],
)
