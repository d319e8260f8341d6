"""Fetches the CaloChallenge's data sets from Zenodo, over lines that break."""

import dataclasses
import email.utils
import errno
import hashlib
import http.client
import os
import pathlib
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Literal

from tqdm import tqdm

import calojax
from calojax.errors import CalojaxError
from calojax.progress import progress_bar

Dataset = Literal["1-photons", "1-pions", "2", "3"]

ZENODO = "https://zenodo.org/records"


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
      record: number of the Zenodo record it belongs to.
      name: its name there and here.
      md5: its checksum, hexadecimal.
    """

    record: str
    name: str
    md5: str


# CaloChallenge (arXiv:2410.21611), DOIs 10.5281/zenodo.8099322, .6366271 and .6366324.
FILES: dict[Dataset, tuple[RemoteFile, ...]] = {
    "1-photons": (
        RemoteFile("8099322", "dataset_1_photons_1.hdf5", "005d2adeda7db034b388112661265656"),
        RemoteFile("8099322", "dataset_1_photons_2.hdf5", "4767715ed56e99565fd9c67340661e70"),
    ),
    "1-pions": (
        RemoteFile("8099322", "dataset_1_pions_1.hdf5", "6a5f52722064a1bcd8a0bc002f16515d"),
        RemoteFile("8099322", "dataset_1_pions_2.hdf5", "fee7457b40127bc23c8ab909e2638ca0"),
    ),
    "2": (
        RemoteFile("6366271", "dataset_2_1.hdf5", "e590333e9a2da51b258288d74bd8357a"),
        RemoteFile("6366271", "dataset_2_2.hdf5", "7a56fd68aa53ded37c2ac445694d9736"),
    ),
    "3": (
        RemoteFile("6366324", "dataset_3_1.hdf5", "d33f03418aa311b0965452fcbef1ff87"),
        RemoteFile("6366324", "dataset_3_2.hdf5", "911dec2c40aafa64a07b7450b80881bf"),
        RemoteFile("6366324", "dataset_3_3.hdf5", "5ea62f6831a1821bb5035fafc9f030e8"),
        RemoteFile("6366324", "dataset_3_4.hdf5", "5e8d82e6a6c28c6914a3b602a1cfa299"),
    ),
}

_ATTEMPTS = 6  # in a row without a single new byte
_LONGEST_PAUSE = 120.0  # seconds
_TIMEOUT = 60.0  # seconds without a byte
_BLOCK_BYTES = 2**18

# What a line or a proxy does to a download that may well succeed the next time.
_BROKEN_LINE = (
    http.client.HTTPException,
    urllib.error.URLError,
    ConnectionError,
    TimeoutError,
)
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _Interrupted(Exception):
    """The download stopped early; another request may continue it.

    Attributes:
      pause: seconds that the server asks to wait, if it does.
    """

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


def download(
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    base_url: str = ZENODO,
    files: Mapping[str, tuple[RemoteFile, ...]] = FILES,
    sleep: Callable[[float], None] = time.sleep,
) -> list[pathlib.Path]:
    """Fetches all files of a data set that are not yet there.

    Args:
      dataset: which one.
      folder: where to; made if need be.
      base_url: a mirror with Zenodo's addresses, ``<base_url>/<record>/files/<name>``.
      files: the files of each data set.
      sleep: how to wait between attempts.

    Returns:
      The files' paths here.

    Raises:
      CalojaxError: if there is no such data set, or a file cannot be fetched (see `fetch`).
    """
    if dataset not in files:
        raise CalojaxError(f"There is no data set {dataset!r}; choose one of {', '.join(files)}.")
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CalojaxError(f"{folder}: cannot be made ({error.strerror}).") from None
    return [
        fetch(file, folder, f"{base_url}/{file.record}/files/{file.name}", sleep=sleep)
        for file in files[dataset]
    ]


def fetch(
    file: RemoteFile,
    folder: pathlib.Path,
    url: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> pathlib.Path:
    """Fetches one file, unless it is there already, and checks its md5.

    What has come so far is kept in ``<name>.partial``; a later attempt or a later call continues
    there. The file gets its name when it is complete and right.

    Args:
      file: what to fetch.
      folder: an existing folder for it.
      url: its address.
      sleep: how to wait between attempts.

    Returns:
      Its path.

    Raises:
      CalojaxError: if the server refuses or sends something else, the line stays broken, the disk
        is too small, or another file of that name is in the way.
    """
    target = folder / file.name
    partial = folder / f"{file.name}.partial"
    if target.exists():
        found = _md5(target)
        if found != file.md5:
            raise CalojaxError(
                f"{target}: is there already, but its md5 is {found} instead of {file.md5}; move "
                "it away and try again."
            )
        return target
    try:
        _fetch_all(url, partial, sleep)
        found = _md5(partial)
        if found != file.md5:
            partial.unlink()
            raise CalojaxError(
                f"{url}: what came has md5 {found} instead of {file.md5} and was removed; try "
                "again, and if that does not help, fetch the file with a browser."
            )
        os.replace(partial, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CalojaxError(
                f"{partial}: the disk is full; free some space, and the download will continue."
            ) from None
        raise CalojaxError(f"{partial}: cannot be written ({error.strerror}).") from None
    return target


def _fetch_all(url: str, partial: pathlib.Path, sleep: Callable[[float], None]) -> None:
    """Requests the missing rest of ``partial`` until there is none."""
    failures = 0
    while True:
        before = _size(partial)
        try:
            return _fetch_rest(url, partial)
        except _Interrupted as error:
            failures = 1 if _size(partial) > before else failures + 1
            if failures >= _ATTEMPTS:
                raise CalojaxError(
                    f"{url}: {_ATTEMPTS} attempts in a row failed ({error}); run the same command "
                    f"again later, it will continue after {_size(partial) / 1e6:,.1f} MB."
                ) from None
            pause = 2.0**failures if error.pause is None else error.pause
            pause = min(pause, _LONGEST_PAUSE)
            tqdm.write(f"{error}; trying again in {pause:.0f} s", file=sys.stderr)
        sleep(pause)


def _fetch_rest(url: str, partial: pathlib.Path) -> None:
    """One request for what is missing of ``partial``, from its present end on.

    Raises:
      _Interrupted: if not all of it came.
    """
    have = _size(partial)
    headers = {
        "User-Agent": f"calojax/{calojax.__version__}",
        "Accept-Encoding": "identity",  # Ranges count the bytes of the file itself.
    }
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        ) as response:
            start, total = _extent(response, have)
            _check_room(partial, start, total)
            with partial.open("r+b" if start else "wb") as out:
                out.seek(start)
                out.truncate()
                _copy(response, out, start, total, partial.name.removesuffix(".partial"))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            # The server has no byte after ours: complete, unless it has fewer of them.
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            partial.unlink()
            raise _Interrupted("the server has a shorter file") from None
        if error.code not in _PASSING_STATUS:
            raise CalojaxError(
                f"{url}: the server answers {error.code} ({error.reason}); check the address, or "
                "fetch the file with a browser."
            ) from None
        raise _Interrupted(
            f"the server answers {error.code}, {error.reason}", _retry_after(error.headers)
        ) from None
    except _BROKEN_LINE as error:
        raise _Interrupted(str(error) or type(error).__name__) from None


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """(first byte of the response, size of the whole file if it is known)."""
    if response.status == 206:
        # "bytes 100-199/200", or "bytes 100-199/*"
        span, _, total = response.headers.get("Content-Range", "").partition("/")
        if span.startswith(f"bytes {have}-"):
            return have, int(total) if total.isdecimal() else None
        raise _Interrupted(f"the server sent the wrong range, {span!r}")
    # The server ignores ranges (or none was asked for): all of it comes, from the beginning.
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(
    response: http.client.HTTPResponse, out: BinaryIO, start: int, total: int | None, title: str
) -> None:
    """Appends the response's bytes to ``out`` under a bar with rate and time left."""
    with progress_bar(title, total, done=start, unit="B") as bar:
        for block in _received(response):
            out.write(block)
            bar.update(len(block))
    # A connection that closes early is not always an error for `http.client`.
    if total is not None and out.tell() < total:
        raise _Interrupted(f"the connection closed after {out.tell():,} of {total:,} bytes")


def _received(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            block = response.read1(_BLOCK_BYTES)
        except OSError as error:  # Resets, timeouts, TLS: all of the line, none of the disk.
            raise _Interrupted(str(error) or type(error).__name__) from None
        if not block:
            return
        yield block


def _check_room(partial: pathlib.Path, start: int, total: int | None) -> None:
    if total is None:
        return
    free = shutil.disk_usage(partial.parent).free + (_size(partial) if not start else 0)
    if total - start > free:
        raise CalojaxError(
            f"{partial}: needs {(total - start) / 1e9:.2f} GB more, but the disk has only "
            f"{free / 1e9:.2f} GB left; free some space or choose another folder."
        )


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Seconds that a Retry-After header asks for: a number or a date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
