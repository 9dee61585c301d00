"""Features of images, computed once for each encoder, view and image, in files that all commands of a user share.

FOLDER/ENCODER/VIEW_BUCKET_ID.safetensors holds the features of some images, memory-mapped by readers. Images are
divided into buckets by digest. A process locks the bucket that it computes, so that processes which need the same
features at the same time divide the work.

Shapes: N images, V views, F features.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tercet.core.files import file_lock, write_bytes
from tercet.data.image_traits import DIGEST_BYTES
from tercet.data.table import Ints

Features = NDArray[np.float32]
Compute = Callable[[Ints, Sequence[int]], Iterable[Features]]
"""From positions of images and indices of views to arrays B V F, in the order of the positions."""
MAX_BYTES = 4_000_000_000
"""Size of all stored features; beyond it, the files that were unused for longest are removed."""
CHUNK = 512
"""Images that are stored together; an interruption stores those of the current chunk."""
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
    ) -> Features:
        """Return the features N V F of some images; those that are not stored are computed and stored.

        A damaged file is ignored, and a full disk is only warned of: then the features are computed again next time.
        What was computed before an exception is stored.

        Args:
            encoder: SHA-256 of all that determines the features of a view: weights, network and input spec.
            views: V names of views, which are part of file names.
            digests: N digests of the images; equal images are computed once.
            compute: Computes features.
            on_batch: Called with the number of finished images and their total after each batch, and while another
                process computes; it may raise an exception to stop.
        """
        first = {digest: position for position, digest in reversed(list(enumerate(digests)))}
        stored = [self._read(encoder, view, first) for view in views]
        missing = [digest for digest in first if any(digest not in known for known in stored)]
        request = _Request(encoder, tuple(views), first, stored, compute, on_batch, len(missing))
        before = self.computed
        if missing:
            self._fill(request, missing)
        self.reused += len(digests) * len(views) - (self.computed - before)
        columns = [np.stack([known[digest] for digest in digests]) for known in stored]
        return np.stack(columns, axis=1)

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
        new: deque[tuple[bytes, Features]] = deque()
        queue = iter(names)
        try:
            for part in request.compute(np.array([request.first[name] for name in names]), views):
                values = np.ascontiguousarray(part, dtype=np.float32)
                new.extend((next(queue), value) for value in values)  # V F
                self.computed += len(values) * len(views)
                if len(new) >= CHUNK:
                    self._store(request, bucket, views, new)
                request.advance(len(values))
        finally:
            self._store(request, bucket, views, new)

    def _store(
        self, request: _Request, bucket: int, views: tuple[int, ...], new: deque[tuple[bytes, Features]]
    ) -> None:
        """Move new features to the known ones, and write them."""
        names, values = [name for name, _ in new], [value for _, value in new]
        new.clear()
        for column, view in enumerate(views if names else ()):
            features = np.stack([value[column] for value in values])
            request.stored[view].update(zip(names, features, strict=True))
            self._write(request.encoder, f"{request.views[view]}_{bucket}", names, features)

    def _write(self, encoder: str, name: str, digests: Sequence[bytes], features: Features) -> None:
        if not self._writable:
            return
        table = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        checks = np.array([_checksum(*row) for row in zip(table, features, strict=True)], dtype=np.uint32)
        metadata = {"encoder": encoder, "view": name.rpartition("_")[0]}
        content = save({"features": features, "checksums": checks, "digests": table}, metadata=metadata)
        try:
            write_bytes(self.folder / encoder / f"{name}_{uuid.uuid4().hex}.safetensors", content)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        """Warn once that features are not stored."""
        if self._writable:
            warnings.warn(f"features are not stored in {self.folder}: {error}", stacklevel=2)
        self._writable = False

    def _read(self, encoder: str, view: str, queries: Iterable[bytes], bucket: int | None = None) -> dict[bytes, Any]:
        """Return the stored features F of some images; other parts of the files are not read."""
        missing = set(queries)
        stored: dict[bytes, Any] = {}
        for path in sorted((self.folder / encoder).glob(f"{view}_{'*' if bucket is None else bucket}_*.safetensors")):
            if not missing:
                break
            with suppress(OSError, ValueError, KeyError, TypeError, IndexError):  # a damaged or removed file
                digests, checksums, features = _open(path, {"encoder": encoder, "view": view})
                names = [row.tobytes() for row in digests]
                rows = [row for row, name in enumerate(names) if name in missing]
                for row, values in zip(rows, features[rows], strict=True):
                    if _checksum(digests[row], values) == checksums[row]:
                        stored[names[row]] = values
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
                path.unlink(missing_ok=True)


@dataclass
class _Request:
    """A call of `FeatureCache.features`."""

    encoder: str
    views: tuple[str, ...]
    first: dict[bytes, int]
    """Position of each image."""
    stored: list[dict[bytes, Any]]
    """Features of each view by image."""
    compute: Compute
    on_batch: Callable[[int, int], None]
    total: int
    done: int = 0

    def advance(self, count: int) -> None:
        """Report images."""
        self.done += count
        self.on_batch(self.done, self.total)


def _checksum(digest: NDArray[np.uint8], features: Features) -> int:
    """Return a checksum that shows a flipped bit."""
    return zlib.crc32(features.data, zlib.crc32(digest.data))


def _open(path: Path, metadata: dict[str, str]) -> tuple[NDArray[np.uint8], NDArray[np.uint32], Features]:
    """Return the digests, checksums and features of a safetensors file as views of the memory-mapped file.

    Raises:
        OSError: The file cannot be read.
        ValueError, KeyError, TypeError: The file is damaged, or has other metadata.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    if header["__metadata__"] != metadata:
        raise ValueError("the features belong to another encoder or view")

    def tensor(name: str, dtype: Any) -> Any:
        begin, end = header[name]["data_offsets"]
        return content[start + begin : start + end].view(dtype).reshape(header[name]["shape"])

    return tensor("digests", np.uint8), tensor("checksums", np.uint32), tensor("features", np.float32)
