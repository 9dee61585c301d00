"""Download files: resumable, locked, checked by size and checksum."""

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tercet.core.errors import DataError, StorageError
from tercet.core.files import file_lock, replace_file


@dataclass(frozen=True)
class RemoteFile:
    """An official file of a data set."""

    name: str
    num_bytes: int | None = None
    """Published size; None if there is none."""
    checksum: str = ""
    """Published checksum: a SHA-256, or `md5:` and an MD5; empty if there is none."""
    note: str = ""
    """Purpose of an optional file."""

    @property
    def algorithm(self) -> str:
        """Name of the checksum; empty if there is none."""
        return "MD5" if self.checksum.startswith("md5:") else "SHA-256" if self.checksum else ""

    @property
    def digest(self) -> str:
        """The digits of the checksum."""
        return self.checksum.removeprefix("md5:")

    def mismatch(self, path: Path) -> str:
        """Return the difference between a file and the official one, or an empty string.

        Raises:
            OSError: The file cannot be read.
        """
        size = path.stat().st_size
        if self.num_bytes is not None and size != self.num_bytes:
            return f"{size:,} bytes, expected {self.num_bytes:,}"
        if not self.checksum:
            return ""
        with open(path, "rb") as stream:
            # MD5 detects damage, not forgery: only https protects against that
            state = hashlib.sha256() if self.algorithm == "SHA-256" else hashlib.md5(usedforsecurity=False)
            actual = hashlib.file_digest(stream, lambda: state).hexdigest()
        return "" if actual == self.digest else f"{self.algorithm} {actual}, expected {self.digest}"


_CHUNK = 1 << 20  # bytes per read
_TIMEOUT = 30.0  # seconds without data
_RESERVE = 1 << 26  # bytes that stay free on the disk


def report_progress(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)


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

    Raises:
        DataError: No mirror returned the official file; the message explains how to place it manually.
        StorageError: The file cannot be written.
    """
    target = folder / file.name
    reasons: list[str] = []
    waited: list[str] = []

    def wait(owner: str) -> None:
        waited.append(owner)
        report(f"process {owner} is downloading {target}: waiting for it")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / f".{file.name}.lock", busy=wait):
            if waited and target.exists():
                return target
            for mirror in mirrors:
                download = _Download(mirror.rstrip("/") + "/" + file.name, file, folder, schemes)
                try:
                    report(f"downloading {download.url}" + (f", {file.num_bytes:,} bytes" if file.num_bytes else ""))
                    download.run()
                except DataError as error:
                    reasons.append(str(error))
                else:
                    replace_file(download.part, target)
                    download.discard()
                    return target
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another --data-dir"
        ) from error
    checksum = f"{file.algorithm} {file.digest}".strip() or "no checksum is published"
    raise DataError(
        f"cannot download {file.name} ({'; '.join(reasons)}): place the file manually as {target} "
        f"({checksum}), or give the folder that holds it with --data-dir"
    )


class _ConnectionLost(DataError):
    """The connection ended before the end of the file."""


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


@dataclass(frozen=True)
class _Download:
    """The download of a file from one URL to a partial file, which outlives the process."""

    url: str
    file: RemoteFile
    folder: Path
    schemes: Sequence[str]

    @property
    def part(self) -> Path:
        return self.folder / f".{self.file.name}.part"

    @property
    def mark(self) -> Path:
        """URL and validator (ETag or Last-Modified) of the partial file."""
        return self.folder / f".{self.file.name}.mark"

    @property
    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)

    def run(self) -> None:
        """Download, and resume after lost connections as long as each attempt receives data."""
        if urllib.parse.urlsplit(self.url).scheme not in self.schemes:
            raise DataError(f"{self.url} is not https")
        if self.size == self.file.num_bytes and not self.file.mismatch(self.part):
            return  # complete but not yet renamed
        while True:
            before = self.size
            try:
                return self.attempt()
            except _ConnectionLost:
                if self.size <= before or not self.resume_headers():
                    raise

    def resume_headers(self) -> Mapping[str, str]:
        """Return the headers that request the rest of the file; none if the download cannot be resumed."""
        try:
            url, _, validator = self.mark.read_text("utf-8").partition("\n")
        except (OSError, ValueError):
            return {}
        if url != self.url or not self.size or not re.fullmatch(r"[ -~]+", validator):
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": validator}

    def attempt(self) -> None:
        """Complete the partial file; errors of the network or the content become a `DataError`."""
        with self.open(self.resume_headers()) as response:
            start = self.size if response.status == http.client.PARTIAL_CONTENT else 0
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                self.discard()
                raise DataError(f"{self.url}: the server sent another range than the requested one")
            if not start:
                tag = response.headers.get("ETag", "")  # a weak one does not identify the bytes
                validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
                self.part.write_bytes(b"")
                self.mark.write_text(f"{self.url}\n{validator}", "utf-8")
            length = None if response.length is None else start + response.length
            expected = length if self.file.num_bytes is None else self.file.num_bytes
            self.require_space((expected or 0) - start)
            received, error = self.receive(response, expected)
        if error or (expected is not None and received < expected and received != length):
            raise _ConnectionLost(f"{self.url}: connection lost at {received:,} bytes {error}".rstrip())
        problem = f"{received:,} bytes received, expected {expected:,}" if expected not in (None, received) else ""
        if problem := problem or self.file.mismatch(self.part):
            self.discard()
            if start:  # the resumed part may belong to an older version of the file
                return self.attempt()
            raise DataError(f"{self.url}: {problem}")

    def open(self, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        opener = urllib.request.build_opener(_SameSchemes(self.schemes))
        base = {"User-Agent": "tercet", "Accept-Encoding": "identity"}
        try:
            response = opener.open(urllib.request.Request(self.url, headers={**base, **headers}), timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if headers and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.discard()
                return self.open({})
            raise DataError(f"{self.url}: HTTP {error.code}") from error
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{self.url}: no connection, {getattr(error, 'reason', None) or error}") from error
        assert isinstance(response, http.client.HTTPResponse)
        return response

    def require_space(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if num_bytes + _RESERVE > free:
            raise StorageError(
                f"{self.folder} has {free:,} bytes free, {num_bytes:,} are needed: choose another --data-dir"
            )

    def receive(self, response: http.client.HTTPResponse, expected: int | None) -> tuple[int, str]:
        """Append the body to the partial file, at most one chunk more than expected; return its size and the error."""
        with open(self.part, "ab") as stream:
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
