"""The CaloChallenge's data sets, fetched from Zenodo."""

import dataclasses
import os
import pathlib
import sys
from typing import Any, Literal

import pooch
import requests

import calojax
from calojax.errors import CalojaxError
from calojax.files import make_folder, refusal

Dataset = Literal["1-photons", "1-pions", "2", "3"]

ZENODO = "https://zenodo.org/records"
_RETRIES = 5
_TIMEOUT = 60.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A published file: number of its Zenodo record, name there and here, and checksum."""

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


def download(dataset: Dataset, folder: str | os.PathLike) -> list[pathlib.Path]:
    """Fetches the missing files of a data set, checks their md5, and returns the paths of all.

    A file appears under its name when it is complete and right; one that was interrupted is fetched
    again from its beginning.

    Raises:
      CalojaxError: if there is no such data set, a file cannot be fetched after several attempts or
        written, or another file of that name exists.
    """
    if dataset not in FILES:
        raise CalojaxError(f"There is no data set {dataset!r}; choose one of {', '.join(FILES)}.")
    folder = pathlib.Path(folder)
    make_folder(folder)
    return [_fetch(file, folder) for file in FILES[dataset]]


def _fetch(file: RemoteFile, folder: pathlib.Path) -> pathlib.Path:
    base_url = f"{ZENODO}/{file.record}/files/"
    target, url = folder / file.name, base_url + file.name
    if target.exists() and (found := pooch.file_hash(str(target), "md5")) != file.md5:
        raise CalojaxError(
            f"{target}: already exists with md5 {found} instead of {file.md5}; move it away, and "
            "try again."
        )
    registry = {file.name: f"md5:{file.md5}"}
    fetcher = pooch.create(folder, base_url, registry=registry, retry_if_failed=_RETRIES)
    downloader: Any = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=2**18,
        timeout=_TIMEOUT,
        headers={"User-Agent": f"calojax/{calojax.__version__}"},
    )
    try:
        if not target.exists():
            fetcher.fetch(file.name, downloader=downloader)
    except requests.RequestException as error:
        raise CalojaxError(
            f"{url}: cannot be fetched ({error}); run the same command again later, or fetch the "
            "file with a browser."
        ) from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise CalojaxError(f"{url}: has other contents than published ({reason}).") from None
    except OSError as error:
        raise refusal(target, error) from None
    return target
