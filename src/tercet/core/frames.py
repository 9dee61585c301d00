"""Data frames, which need the optional pandas."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from tercet.core.errors import ConfigError


def data_frame(data: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Any:
    """Return columns, or rows, as a pandas DataFrame; nested mappings of rows become columns such as `test.accuracy`.

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")  # not at the top: it takes half a second
    except ModuleNotFoundError as error:
        raise ConfigError("data frames require pandas: pip install pandas") from error
    return pandas.DataFrame(data) if isinstance(data, Mapping) else pandas.json_normalize(list(data))
