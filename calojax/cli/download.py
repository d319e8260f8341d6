"""``calojax download``: downloads data sets of the CaloChallenge."""

import pathlib

import tyro

from calojax.errors import printable
from calojax.io import download as zenodo


def download(
    dataset: tyro.conf.Positional[zenodo.Dataset],
    folder: pathlib.Path = pathlib.Path("data"),
) -> None:
    """Downloads a data set of the CaloChallenge from Zenodo, unless its files are there already.

    The files are checked by their MD5 sums.

    Args:
      dataset: number of the data set; dataset 1 has two particles.
      folder: folder for the files.
    """
    for path in zenodo.download(dataset, folder):
        print(printable(path))
