"""Options of `serve`."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.deploy.serving.settings import Limits
from tercet.ground.errors import require
from tercet.records.options import Options, Positional
from tercet.workflows.options.run import OutputConfig, bound_problems

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
        """Time limit for loading: native code that runs out of memory may also hang."""
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
    "Serve a model over HTTP, with a web page. A bundle is first exported to a temporary file in a child process. POST "
    "images to /v1/predict; the API is documented at /docs.",
    groups=[("", ServeConfig), ("limits", Limits), ("", OutputConfig)],
    positionals=[Positional("model", "exported file, bundle or run folder")],
    examples=["model.onnx", "runs/photos-1 --port 8080", "model.onnx --host 0.0.0.0 --allow-host classify.example.org"],
)
