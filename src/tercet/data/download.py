"""Fetching the files of a named data set: https only, checked, and whole or absent."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tercet.ground.errors import DataError
from tercet.ground.files import atomic_path

_PART = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class RemoteFile:
    """One official file of a data set."""

    name: str
    """File name."""
    num_bytes: int
    """Size."""
    md5: str
    """MD5 as its publishers print it."""
    sha256: str
    """SHA-256, which is what is checked."""


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to the schemes allowed: https never falls back to http."""

    def __init__(self, schemes: Sequence[str]) -> None:
        self.schemes = schemes

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in self.schemes:
            raise urllib.error.URLError(f"refused a redirect to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(file: RemoteFile, folder: Path, *, mirrors: Sequence[str], schemes: Sequence[str] = ("https",)) -> Path:
    """Download a file into `folder`: to a temporary name, checked by size and SHA-256, then renamed.

    Args:
        file: What to fetch.
        folder: Where it goes; created where it is missing.
        mirrors: Addresses of folders that hold it, tried in order.
        schemes: Schemes that may be used, also by redirects.

    Raises:
        DataError: No mirror gave the right file; the message says how to place it by hand.
        StorageError: It cannot be written.
    """
    target, reasons = folder / file.name, []
    for mirror in mirrors:
        url = mirror.rstrip("/") + "/" + file.name
        try:
            if urllib.parse.urlsplit(url).scheme not in schemes:
                raise DataError(f"{url} is not https")
            with atomic_path(target) as temporary:
                _download(url, temporary, file, schemes)
        except DataError as error:
            reasons.append(str(error))
        else:
            return target
    raise DataError(
        f"cannot download {file.name} ({'; '.join(reasons)}): place the file by hand as {target} "
        f"(SHA-256 {file.sha256}), or name the folder that holds it with --data-dir"
    )


def _download(url: str, target: Path, file: RemoteFile, schemes: Sequence[str]) -> None:
    """Write the body of `url` to `target`; every fault of the network or the content becomes a `DataError`."""
    digest, received = hashlib.sha256(), 0
    opener = urllib.request.build_opener(_SameSchemes(schemes))
    request = urllib.request.Request(url, headers={"User-Agent": "tercet"})
    try:
        response = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{url}: HTTP {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: no connection, {getattr(error, 'reason', None) or error}") from error
    with response, open(target, "wb") as stream:
        while received <= file.num_bytes and (part := _receive(response, url)):
            stream.write(part)
            digest.update(part)
            received += len(part)
    if received != file.num_bytes:
        raise DataError(f"{url}: {received} bytes received, expected {file.num_bytes}")
    if digest.hexdigest() != file.sha256:
        raise DataError(f"{url}: SHA-256 {digest.hexdigest()}, expected {file.sha256}")


def _receive(response: IO[bytes], url: str) -> bytes:
    try:
        return response.read(_PART)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: the connection broke: {error}") from error
