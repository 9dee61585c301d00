"""Files on the Hugging Face hub and on timm's release pages: local caches, reachable hosts, downloads."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

CONNECT_SECONDS = 2.5
"""Time in which all hosts must respond before anything is downloaded from them."""
_PROGRESS_SECONDS = 2.0
_CARD = "README.md"


@dataclass(frozen=True)
class RemoteFile:
    """A published file: on the hub, at a URL, or both."""

    names: tuple[str, ...] = ()
    """Names in the repository, the preferred one first."""
    repository: str | None = None
    """ORG/NAME on the hub."""
    revision: str | None = None
    """Branch, tag or commit hash; None is the main branch."""
    url: str | None = None
    """Used if there is no repository."""

    @property
    def source(self) -> str:
        """The repository and revision, or the URL."""
        if self.repository is None:
            return str(self.url)
        return f"hf-hub:{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def host(self) -> str:
        """The host that publishes the file, as a URL."""
        if self.repository is not None:
            return str(huggingface_hub.constants.ENDPOINT)
        parts = urlparse(str(self.url))
        return f"{parts.scheme}://{parts.netloc}"

    def cached(self) -> Path | None:
        """Return the file in the local caches, if they have it."""
        for name in self.names if self.repository else ():
            path = huggingface_hub.try_to_load_from_cache(filename=name, **self._hub_arguments())
            if isinstance(path, str):
                return Path(path)
        return self._url_cache() if self.url and self._url_cache().is_file() else None

    def download(self) -> Path:
        """Return the file after downloading it; progress is shown on standard error if it takes some time."""
        if self.repository is None:
            target = self._url_cache()
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = torch.hub.HASH_REGEX.search(target.name)
            torch.hub.download_url_to_file(
                str(self.url), str(target), hash_prefix=digest.group(1) if digest else None, progress=True
            )
            return target
        *preferred, last = self.names
        for name in preferred:
            with suppress(EntryNotFoundError):
                return self._from_hub(name)
        return self._from_hub(last)

    def licence(self) -> str | None:
        """Return the licence that the repository's model card states, if the card is in the local cache."""
        card = None if self.repository is None else RemoteFile((_CARD,), self.repository, self.revision).cached()
        if card is None:
            return None
        try:
            metadata = huggingface_hub.metadata_load(card) or {}
        except Exception:  # the card is anything that its author wrote
            return None
        licence = metadata.get("license")
        if licence == "other":  # the hub's word for a licence with a name of its own
            licence = metadata.get("license_name") or licence
        return known_licence(licence)

    def _from_hub(self, name: str) -> Path:
        path = huggingface_hub.hf_hub_download(filename=name, tqdm_class=_DelayedBar, **self._hub_arguments())
        with suppress(Exception):  # the card is not needed for anything but the licence
            huggingface_hub.hf_hub_download(filename=_CARD, tqdm_class=_DelayedBar, **self._hub_arguments())
        return Path(path)

    def _hub_arguments(self) -> dict[str, Any]:
        return {"repo_id": str(self.repository), "revision": self.revision}

    def _url_cache(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(str(self.url)).path).name


class _DelayedBar(tqdm):
    """The hub's progress bar, shown only if a download takes some time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"delay": _PROGRESS_SECONDS, **options})  # type: ignore[no-untyped-call]


def known_licence(licence: object) -> str | None:
    """Return a licence's name; None if it is not stated."""
    if not isinstance(licence, str) or not licence.strip() or licence.strip().lower() in ("unknown", "other"):
        return None
    return licence.strip()


def commit_of(path: Path) -> str | None:
    """Return the commit hash of a file in the hub's cache; None for other files."""
    snapshot = path.parent
    while snapshot != snapshot.parent:
        if snapshot.parent.name == "snapshots":
            return snapshot.name
        snapshot = snapshot.parent
    return None


def fetch(files: Iterable[RemoteFile]) -> tuple[dict[RemoteFile, Path], dict[RemoteFile, str]]:
    """Return the local paths of files, downloading those that are in no cache, and why the others are missing.

    Before a download, the hosts must respond within a few seconds, all at the same time, because the hub's client would
    retry for minutes on a machine without internet access.

    Args:
        files: The files; repeated ones are fetched once.
    """
    files = list(dict.fromkeys(files))
    paths = {file: path for file in files if (path := file.cached()) is not None}
    absent = [file for file in files if file not in paths]
    offline = {file for file in absent if file.repository and huggingface_hub.constants.HF_HUB_OFFLINE}
    unreachable = _unreachable({file.host for file in absent if file not in offline})
    reasons: dict[RemoteFile, str] = {}
    for file in absent:
        if file in offline:
            reasons[file] = "HF_HUB_OFFLINE is set, and not in the local cache"
        elif file.host in unreachable:
            reasons[file] = f"not in the local cache, and {file.host} cannot be reached ({unreachable[file.host]})"
        else:
            try:
                paths[file] = file.download()
            except Exception as error:  # the client and the network may fail in any way, with the same remedy
                reasons[file] = f"the download from {file.source} failed ({_reason(file, error)})"
    return paths, reasons


def _reason(file: RemoteFile, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return "its licence must be accepted on its page first, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {file.revision}"
    if isinstance(error, EntryNotFoundError):
        return f"it has no {' or '.join(file.names)}"
    return _first_line(error)


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _unreachable(hosts: Collection[str]) -> dict[str, str]:
    """Return why hosts do not respond in time; hosts that do are left out."""
    results: dict[str, str | None] = {}

    def connect(host: str) -> None:
        try:
            _request(host)
            results[host] = None
        except Exception as error:
            results[host] = _first_line(getattr(error, "reason", error))

    # threads, because neither the lookup of a name nor a slow proxy obeys a time limit
    threads = [threading.Thread(target=connect, args=(host,), daemon=True) for host in hosts]
    end = time.monotonic() + CONNECT_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no response within {CONNECT_SECONDS:g} s"
    return {host: reason for host in hosts if (reason := results.get(host, late)) is not None}


def _request(host: str) -> None:
    """Request a host's first page, through the proxies that the download would use; any response will do."""
    if host == huggingface_hub.constants.ENDPOINT:
        huggingface_hub.get_session().head(host, timeout=CONNECT_SECONDS)
        return
    try:
        request = urllib.request.Request(host, method="HEAD")
        with urllib.request.build_opener().open(request, timeout=CONNECT_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        error.close()
