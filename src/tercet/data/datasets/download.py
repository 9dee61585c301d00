"""Download files: resumable, locked, checked by size and SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tercet.core.errors import DataError, StorageError
from tercet.core.files import FileLock, replace_file


@dataclass(frozen=True)
class RemoteFile:
    """An official file of a data set; values that its publishers do not state are None."""

    name: str
    num_bytes: int | None
    md5: str | None
    """Published MD5, checked if there is no SHA-256."""
    sha256: str | None
    note: str = ""
    """Purpose of an optional file."""

    @property
    def size_text(self) -> str:
        """The size after a comma, such as ', 1,024 bytes'; empty if unknown."""
        return "" if self.num_bytes is None else f", {self.num_bytes:,} bytes"

    @property
    def checksum_text(self) -> str:
        """The strongest checksum with its name."""
        if self.sha256:
            return f"SHA-256 {self.sha256}"
        return f"MD5 {self.md5}" if self.md5 else "no checksum is published"

    def mismatch(self, path: Path) -> str:
        """Return the difference between a file and the official one, or an empty string.

        Raises:
            OSError: The file cannot be read.
        """
        size = path.stat().st_size
        if self.num_bytes is not None and size != self.num_bytes:
            return f"{size:,} bytes, expected {self.num_bytes:,}"
        algorithm, expected = ("SHA-256", self.sha256) if self.sha256 else ("MD5", self.md5)
        if not expected:
            return ""
        with open(path, "rb") as stream:
            # MD5 detects damage, not forgery: only https protects against that
            digest = hashlib.sha256() if self.sha256 else hashlib.md5(usedforsecurity=False)
            actual = hashlib.file_digest(stream, lambda: digest).hexdigest()
        return "" if actual == expected else f"{algorithm} {actual}, expected {expected}"


_CHUNK = 1 << 20  # bytes per read
_TIMEOUT = 30.0  # seconds without data
_RESERVE = 1 << 26  # bytes that stay free on the disk


def report_progress(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed schemes only, so that https never falls back to http."""

    def __init__(self, schemes: Sequence[str]) -> None:
        self.schemes = schemes

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in self.schemes:
            raise urllib.error.URLError(f"refused a redirect to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    mirrors: Sequence[str],
    schemes: Sequence[str] = ("https",),
    report: Callable[[str], None] = report_progress,
) -> Path:
    """Download a file to a temporary name in `folder`, check it, and rename it.

    A partial download (`.NAME.part`) is resumed if the file on the server has not changed. If several processes need
    a file, one downloads it and the others wait.

    Args:
        file: The file.
        folder: Target folder; created if missing.
        mirrors: Base URLs, tried in order.
        schemes: Allowed URL schemes, also of redirects.
        report: Called with one line per progress message.

    Raises:
        DataError: No mirror returned the official file; the message explains how to place it manually.
        StorageError: The file cannot be written.
    """
    target, reasons = folder / file.name, []

    def wait(owner: str) -> None:
        report(f"process {owner} is downloading {target}: waiting for it")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{file.name}.lock", busy=wait) as lock:
            if lock.waited and target.exists():
                return target
            for mirror in mirrors:
                url = mirror.rstrip("/") + "/" + file.name
                try:
                    if urllib.parse.urlsplit(url).scheme not in schemes:
                        raise DataError(f"{url} is not https")
                    report(f"downloading {url}{file.size_text}")
                    part = _PartialFile(folder, file)
                    _download_with_retries(url, part, schemes)
                except DataError as error:
                    reasons.append(str(error))
                else:
                    replace_file(part.path, target)
                    part.delete()
                    return target
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another --data-dir"
        ) from error
    raise DataError(
        f"cannot download {file.name} ({'; '.join(reasons)}): place the file manually as {target} "
        f"({file.checksum_text}), or give the folder that holds it with --data-dir"
    )


class _PartialFile:
    """A partial download and its validator (ETag or Last-Modified)."""

    def __init__(self, folder: Path, file: RemoteFile) -> None:
        self.file = file
        self.path = folder / f".{file.name}.part"
        self._validator_path = folder / f".{file.name}.mark"

    @property
    def size(self) -> int:
        """Downloaded bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self, url: str) -> str:
        """Return the validator of the partial file; empty if the download cannot be resumed."""
        try:
            address, _, validator = self._validator_path.read_text("utf-8").partition("\n")
        except (OSError, ValueError):
            return ""
        resumable = address == url and self.size and re.fullmatch(r"[ -~]+", validator)
        return validator if resumable else ""

    def restart(self, url: str, response: http.client.HTTPResponse) -> None:
        """Create an empty file and store its validator: a strong ETag, else the date, else nothing."""
        tag = str(response.headers.get("ETag", ""))
        validator = tag if tag.startswith('"') else str(response.headers.get("Last-Modified", ""))
        self.path.write_bytes(b"")
        self._validator_path.write_text(f"{url}\n{validator}", "utf-8")

    def delete(self) -> None:
        """Delete the partial file and its validator."""
        self.path.unlink(missing_ok=True)
        self._validator_path.unlink(missing_ok=True)


class _ConnectionLost(DataError):
    """The connection ended before the end of the file."""


def _download_with_retries(url: str, part: _PartialFile, schemes: Sequence[str]) -> None:
    """Download, and resume after lost connections as long as each attempt receives data."""
    if part.size == part.file.num_bytes and not part.file.mismatch(part.path):
        return  # complete but not yet renamed
    while True:
        before = part.size
        try:
            return _download(url, part, schemes)
        except _ConnectionLost:
            if part.size <= before or not part.validator(url):
                raise


def _download(url: str, part: _PartialFile, schemes: Sequence[str]) -> None:
    """Complete the partial file; errors of the network or the content become a `DataError`."""
    validator = part.validator(url)
    headers = {"Range": f"bytes={part.size}-", "If-Range": validator} if validator else {}
    with _open(url, headers, schemes, part) as response:
        start = _start(response)
        if start not in (0, part.size):
            part.delete()
            raise DataError(f"{url}: the server sent another range than the requested one")
        if not start:
            part.restart(url, response)
        content_length = response.headers.get("Content-Length", "")
        length = start + int(content_length) if re.fullmatch(r"\d{1,18}", content_length) else None
        expected = part.file.num_bytes if part.file.num_bytes is not None else length
        _require_space(part.path, (expected or 0) - start)
        received, error = _receive(response, part, expected)
    if error or (expected is not None and received < expected and received != length):
        raise _ConnectionLost(f"{url}: connection lost at {received:,} bytes {error}".rstrip())
    problem = f"{received:,} bytes received, expected {expected:,}" if expected not in (None, received) else ""
    if problem := problem or part.file.mismatch(part.path):
        part.delete()
        if start:  # the resumed part may belong to an older version of the file
            return _download(url, part, schemes)
        raise DataError(f"{url}: {problem}")


def _open(url: str, headers: dict[str, str], schemes: Sequence[str], part: _PartialFile) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(_SameSchemes(schemes))
    request = urllib.request.Request(url, headers={"User-Agent": "tercet", "Accept-Encoding": "identity", **headers})
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if headers and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.delete()
            return _open(url, {}, schemes, part)
        raise DataError(f"{url}: HTTP {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: no connection, {getattr(error, 'reason', None) or error}") from error
    return response


def _start(response: http.client.HTTPResponse) -> int:
    """Return the position of the response's first byte within the file; -1 if a partial response lacks it."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    content_range = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    return int(content_range[1]) if content_range else -1


def _require_space(path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if num_bytes + _RESERVE > free:
        raise StorageError(
            f"{path.parent} has {free:,} bytes free, {num_bytes:,} are needed: choose another --data-dir"
        )


def _receive(response: http.client.HTTPResponse, part: _PartialFile, expected: int | None) -> tuple[int, str]:
    """Append the body to the partial file, at most one chunk more than expected; return its size and the error."""
    with open(part.path, "ab") as stream:
        received = os.fstat(stream.fileno()).st_size
        while expected is None or received <= expected:
            try:
                content = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                return received, f"({error})"
            if not content:
                break
            stream.write(content)
            stream.flush()  # a killed process leaves all received bytes
            received += len(content)
    return received, ""
