"""Features of images, computed once for each encoder, view and image, in files that all commands of a user share.

FOLDER/ENCODER/VIEW_BUCKET_ID.safetensors holds the features of some images, memory-mapped by readers. Images are
divided into buckets by digest. A process locks the bucket that it computes, so that processes which need the same
features at the same time divide the work.

Vectors are stored in single precision, feature maps in half precision; the file has the type. Half precision changes a
feature by at most 1 part in 2048 (or 6e-8); a map with features beyond its range (65,504) is stored in single
precision. The features are rounded before they are used, so that results do not depend on what was stored before.

Shapes: N images, V views, F features or h x w cells of D features.
"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tercet.core.files import file_lock, write_bytes
from tercet.data.feature_files import checksum, open_features, pack_features
from tercet.data.feature_table import Features, FeatureTable, Stored
from tercet.data.table import Ints

Compute = Callable[[Ints, Sequence[int]], Iterable[Features]]
"""From positions of images and indices of views to arrays B V F, in the order of the positions."""
MAX_BYTES = 4_000_000_000
"""Size of all stored features; beyond it, the files that were unused for longest are removed."""
CHUNK = 512
"""Images that are stored together; an interruption stores those of the current chunk."""
CHUNK_BYTES = 64_000_000
"""Size of features that are stored together, even if they are of fewer images."""
_Rows = dict[bytes, tuple[Stored, int]]
"""By image: the array with its features, and their row in it."""
BUCKETS = 8
"""Parts of the images of an encoder that processes compute independently, with one call each if they are few."""
_POLL = 0.1  # seconds between two looks at the buckets of other processes


def default_folder() -> Path:
    """Return `features` in the folder that TERCET_CACHE names, by default `.cache/tercet` of the user."""
    return Path(os.environ.get("TERCET_CACHE") or Path.home() / ".cache" / "tercet") / "features"


def _ignore(done: int, total: int) -> None:
    """Do nothing after a batch."""


class _BusyError(Exception):
    """Another process computes the features of a bucket."""


@dataclass
class FeatureCache:
    """Features by encoder, view and image, with counters for the metrics of a run."""

    folder: Path = field(default_factory=default_folder)
    computed: int = 0
    """Features that were computed, of one image and one view each."""
    reused: int = 0
    """Features that were read."""
    _writable: bool = True

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of computed and reused features, for metrics."""
        return {"computed": self.computed, "reused": self.reused}

    def features(
        self,
        encoder: str,
        views: Sequence[str],
        digests: Sequence[bytes],
        compute: Compute,
        on_batch: Callable[[int, int], None] = _ignore,
        *,
        half: bool = False,
    ) -> FeatureTable:
        """Return the features N V F of some images; those that are not stored are computed and stored.

        A damaged file is ignored, and a full disk is only warned of: then the features are in memory, and computed
        again next time. What was computed before an exception is stored.

        Args:
            encoder: SHA-256 of all that determines the features of a view: weights, network and input spec.
            views: V names of views, which are part of file names.
            digests: N digests of the images; equal images are computed once.
            compute: Computes features.
            on_batch: Called with the number of finished images and their total after each batch, and while another
                process computes; it may raise an exception to stop.
            half: Round the features to half precision.
        """
        first = {digest: position for position, digest in reversed(list(enumerate(digests)))}
        stored = [self._read(encoder, view, first) for view in views]
        missing = [digest for digest in first if any(digest not in known for known in stored)]
        request = _Request(encoder, tuple(views), first, stored, compute, on_batch, len(missing), half)
        before = self.computed
        if missing:
            self._fill(request, missing)
        self.reused += len(digests) * len(views) - (self.computed - before)
        return FeatureTable.from_rows(stored, digests)

    def _fill(self, request: _Request, missing: Sequence[bytes]) -> None:
        """Compute the missing features, or wait for the processes that compute them."""
        buckets: dict[int, list[bytes]] = {}
        for digest in missing:
            buckets.setdefault(digest[0] % BUCKETS, []).append(digest)
        start = os.getpid() % BUCKETS  # processes that start together begin with different buckets
        waiting = sorted(buckets, key=lambda bucket: (bucket - start) % BUCKETS)
        while waiting:
            busy = []
            for bucket in waiting:
                try:
                    with self._claim(request.encoder, bucket):
                        self._fill_bucket(request, bucket, sorted(buckets[bucket], key=request.first.__getitem__))
                except _BusyError:
                    busy.append(bucket)
            if len(busy) == len(waiting):
                time.sleep(_POLL)
                request.on_batch(request.done, request.total)
            waiting = busy
        with suppress(OSError):
            self._remove_oldest()

    @contextmanager
    def _claim(self, encoder: str, bucket: int) -> Iterator[None]:
        """Hold the lock of a bucket, which a killed process loses; without effect in a folder that is not writable."""

        def refuse(owner: str) -> None:
            raise _BusyError

        with ExitStack() as stack:
            try:
                if self._writable:
                    (self.folder / encoder).mkdir(parents=True, exist_ok=True)
                    stack.enter_context(file_lock(self.folder / encoder / f".{bucket}.lock", busy=refuse))
            except OSError as error:
                self._warn(error)
            yield

    def _fill_bucket(self, request: _Request, bucket: int, missing: Sequence[bytes]) -> None:
        for view, known in zip(request.views, request.stored, strict=True):  # other processes may have stored some
            known |= self._read(request.encoder, view, [name for name in missing if name not in known], bucket)
        groups: dict[tuple[int, ...], list[bytes]] = {}
        for digest in missing:
            views = tuple(index for index, known in enumerate(request.stored) if digest not in known)
            groups.setdefault(views, []).append(digest)
        for views, names in groups.items():
            if views:
                self._compute(request, bucket, views, names)
            else:
                request.advance(len(names))

    def _compute(self, request: _Request, bucket: int, views: tuple[int, ...], names: Sequence[bytes]) -> None:
        new: list[tuple[bytes, list[Stored]]] = []
        queue, size = iter(names), 0
        try:
            for part in request.compute(np.array([request.first[name] for name in names]), views):
                values = np.ascontiguousarray(part, dtype=np.float32)  # B V F
                for columns in values:
                    new.append((next(queue), [_round(column) if request.half else column for column in columns]))
                    size += sum(column.nbytes for column in new[-1][1])
                self.computed += len(values) * len(views)
                if len(new) >= CHUNK or size >= CHUNK_BYTES:
                    ready, new, size = new, [], 0
                    self._store(request, bucket, views, ready)
                request.advance(len(values))
        finally:
            self._store(request, bucket, views, new)

    def _store(
        self, request: _Request, bucket: int, views: tuple[int, ...], new: Sequence[tuple[bytes, list[Stored]]]
    ) -> None:
        """Add new features to the known ones, and write them; those of one file have one type."""
        for column, view in enumerate(views):
            by_type: dict[np.dtype[Any], dict[bytes, Stored]] = {}
            for name, values in new:
                by_type.setdefault(values[column].dtype, {})[name] = values[column]
            for rows in by_type.values():
                features = np.stack(list(rows.values()))
                features = self._write(request.encoder, f"{request.views[view]}_{bucket}", list(rows), features)
                request.stored[view].update((name, (features, row)) for row, name in enumerate(rows))

    def _write(self, encoder: str, name: str, digests: Sequence[bytes], features: Stored) -> Stored:
        """Write features; return them memory-mapped, or as they are if they cannot be written."""
        if not self._writable:
            return features
        metadata = {"encoder": encoder, "view": name.rpartition("_")[0]}
        path = self.folder / encoder / f"{name}_{uuid.uuid4().hex}.safetensors"
        try:
            write_bytes(path, pack_features(digests, features, metadata))
        except OSError as error:
            self._warn(error)
            return features
        with suppress(OSError):  # another process may have removed it
            return open_features(path, metadata)[2]
        return features

    def _warn(self, error: OSError) -> None:
        """Warn once that features are not stored."""
        if self._writable:
            warnings.warn(f"features are not stored in {self.folder}: {error}", stacklevel=2)
        self._writable = False

    def _read(self, encoder: str, view: str, queries: Iterable[bytes], bucket: int | None = None) -> _Rows:
        """Return where the stored features of some images are; other parts of the files are not read."""
        missing = set(queries)
        stored: _Rows = {}
        for path in sorted((self.folder / encoder).glob(f"{view}_{'*' if bucket is None else bucket}_*.safetensors")):
            if not missing:
                break
            with suppress(OSError, ValueError, KeyError, TypeError, IndexError):  # a damaged or removed file
                digests, checksums, features = open_features(path, {"encoder": encoder, "view": view})
                names = [row.tobytes() for row in digests]
                rows = [row for row, name in enumerate(names) if name in missing]
                for row in rows:
                    if checksum(digests[row], features[row]) == checksums[row]:
                        stored[names[row]] = features, row
                if rows:
                    os.utime(path)
            missing -= stored.keys()
        return stored

    def _remove_oldest(self) -> None:
        files = [(path, path.stat()) for path in self.folder.glob("*/*.safetensors")]
        total = 0
        for path, status in sorted(files, key=lambda item: item[1].st_mtime, reverse=True):
            total += status.st_size
            if total > MAX_BYTES:
                with suppress(OSError):  # Windows keeps files that are memory-mapped
                    path.unlink(missing_ok=True)


@dataclass
class _Request:
    """A call of `FeatureCache.features`."""

    encoder: str
    views: tuple[str, ...]
    first: dict[bytes, int]
    """Position of each image."""
    stored: list[_Rows]
    """Features of each view."""
    compute: Compute
    on_batch: Callable[[int, int], None]
    total: int
    half: bool
    done: int = 0

    def advance(self, count: int) -> None:
        """Report images."""
        self.done += count
        self.on_batch(self.done, self.total)


def can_hold(num_features: int, num_bytes: int) -> bool:
    """Whether so many features of so many bytes each fit into the store at the same time."""
    return num_features * num_bytes <= MAX_BYTES


def _round(features: Features) -> Stored:
    """Return features in half precision, or unchanged if they exceed its range."""
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    return half if np.isfinite(half).all() else features
