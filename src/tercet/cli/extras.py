"""What a verb needs that is not installed with Tercet itself: told at once, by name, with the way to get it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tercet.core.errors import ConfigError

FOR_FILES = {"onnx": "export", "onnxruntime": "export", "onnxscript": "export"}
"""What writes, checks and runs exported files: names of packages, and the extra of Tercet that brings each."""
FOR_SERVING = {
    name: "serve" for name in ("fastapi", "httptools", "onnxruntime", "prometheus-client", "python-multipart")
}
FOR_SERVING |= {"uvicorn": "serve"}
"""What the server is made of."""


def require_extras(what: str, packages: Mapping[str, str]) -> None:
    """Refuse a verb whose libraries are missing.

    Args:
        what: What needs them, in the plural.
        packages: Names of packages, and the extra that brings each.

    Raises:
        ConfigError: One is not installed.
    """
    missing = [name for name in packages if find_spec(name.replace("-", "_")) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        extras = ",".join(dict.fromkeys(packages[name] for name in missing))
        raise ConfigError(
            f"{what} need {', '.join(missing)}, which {verb} not installed: pip install 'tercet[{extras}]'"
        )
