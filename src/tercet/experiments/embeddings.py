"""Features of the images of a data set as arrays, data frames and files; and the results of a search.

Shapes: N images, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import ConfigError, StorageError
from tercet.core.files import atomic_path, csv_text, require_writable, write_text
from tercet.core.frames import data_frame
from tercet.core.output import count, printable
from tercet.data.read_ahead import BadImage
from tercet.metrics.table import Table, terminal_width

Floats = NDArray[np.float32]
SUFFIXES = (".npz", ".parquet", ".csv")
_SMALLEST_NORM = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """Features of N images."""

    ids: tuple[str, ...]
    """N sample names."""
    labels: tuple[str, ...]
    """N class names, or label sets as JSON; empty if unlabelled."""
    paths: tuple[str, ...]
    """N files; for archives and arrays the location in them."""
    features: Floats
    """N F."""
    networks: Mapping[str, int]
    """Number of features of each network, in the order of the columns."""
    bad: tuple[BadImage, ...] = ()
    """Images that could not be read, which have no row."""
    computed: int = 0
    """Features that were computed."""
    reused: int = 0
    """Features that were stored."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Embeddings: {self._description()}>"

    @property
    def exit_code(self) -> int:
        """3 if images could not be read, else 0."""
        return 3 if self.bad else 0

    def unit(self) -> Floats:
        """Return features whose dot products are cosine similarities, averaged over the networks (N F)."""
        parts = np.split(self.features, np.cumsum([*self.networks.values()])[:-1], axis=1)
        norms = [np.maximum(np.linalg.norm(part, axis=1, keepdims=True), _SMALLEST_NORM) for part in parts]
        units = [part / norm for part, norm in zip(parts, norms, strict=True)]
        return np.asarray(np.concatenate(units, axis=1) / np.sqrt(len(units)), dtype=np.float32)

    def to_frame(self) -> Any:
        """Return a DataFrame with the columns id, label, path, and `feature_0` and so on.

        Raises:
            ConfigError: pandas is not installed.
        """
        columns = {name: self.features[:, index] for index, name in enumerate(self._names())}
        return data_frame({"id": self.ids, "label": self.labels, "path": self.paths, **columns})

    def save(self, path: str | Path) -> None:
        """Write a .npz, .parquet or .csv file; an existing one is replaced.

        Raises:
            ConfigError: Another suffix, or a package for .parquet is missing.
            StorageError: The file cannot be written.
        """
        path = Path(path)
        check_file(path)
        if path.suffix == ".csv":
            cells = ([f"{value:.9g}" for value in row] for row in self.features.tolist())
            texts = zip(self.ids, self.labels, self.paths, cells, strict=True)
            rows = ([name, label, file, *values] for name, label, file, values in texts)
            write_text(path, csv_text([["id", "label", "path", *self._names()], *rows]))
            return
        with atomic_path(path) as temporary:
            if path.suffix == ".parquet":
                self.to_frame().to_parquet(temporary, index=False)
                return
            ids, labels, paths = (np.array(values, dtype=np.str_) for values in (self.ids, self.labels, self.paths))
            with open(temporary, "wb") as stream:
                np.savez(stream, ids=ids, labels=labels, paths=paths, features=self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the features."""
        return {
            "images": len(self),
            "features": self.features.shape[1],
            "networks": dict(self.networks),
            "computed": self.computed,
            "reused": self.reused,
            "unreadable": [{"id": image.id, "reason": image.reason} for image in self.bad],
        }

    def to_text(self) -> str:
        """Return a summary, and the unreadable images."""
        return f"{self._description()}\n{unreadable_lines(self.bad)}"

    def _description(self) -> str:
        networks = " and ".join(f"{size:,} of {printable(name)}" for name, size in self.networks.items())
        return f"{count(len(self), 'image')}, features: {networks} ({self.computed:,} computed, {self.reused:,} stored)"

    def _names(self) -> list[str]:
        return [f"feature_{index}" for index in range(self.features.shape[1])]


@dataclass(frozen=True)
class SimilarImage:
    """An image of the data that is similar to a searched one."""

    path: str
    label: str
    """Class name, or label set as JSON; empty if unlabelled."""
    similarity: float
    """Cosine similarity of the features."""


@dataclass(frozen=True, repr=False)
class SearchResult:
    """The nearest images of each searched image."""

    nearest: dict[str, tuple[SimilarImage, ...]]
    """By the path of the searched image, the most similar first."""
    bad: tuple[BadImage, ...]
    """Images that could not be read, of the data and of the searched ones."""

    def __repr__(self) -> str:
        return self.to_text().rstrip()

    @property
    def exit_code(self) -> int:
        """3 if images could not be read, else 0."""
        return 3 if self.bad else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        images = [{"id": name, "nearest": [vars(image) for image in images]} for name, images in self.nearest.items()]
        return {"images": images, "unreadable": [{"id": image.id, "reason": image.reason} for image in self.bad]}

    def to_text(self) -> str:
        """Return one table per searched image."""
        tables = [
            Table(
                ("path", "label", "similarity"),
                [(image.path, image.label, f"{image.similarity:.4f}") for image in images],
                align="llr",
                caption=name,
            ).to_text(width=terminal_width())
            for name, images in self.nearest.items()
        ]
        return "\n".join(tables) + unreadable_lines(self.bad)


def unreadable_lines(bad: tuple[BadImage, ...]) -> str:
    """Return one line per unreadable image."""
    return "".join(f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in bad)


def check_file(path: Path) -> None:
    """Check, before any work, that features can be written to a file.

    Raises:
        ConfigError: Another suffix, or a package for .parquet is missing.
        StorageError: It is a folder, or cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: features are written to {', '.join(SUFFIXES)} files: choose another suffix")
    missing = [name for name in ("pandas", "pyarrow") if find_spec(name) is None] if path.suffix == ".parquet" else []
    if missing:
        raise ConfigError(f".parquet files require {' and '.join(missing)}: pip install 'tercet[parquet]', or use .npz")
    if path.is_dir():
        raise StorageError(f"{path} is a folder: give a file")
    require_writable(path.parent, hint="choose another file")
