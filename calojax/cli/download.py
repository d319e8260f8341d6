"""``calojax download``: downloads data sets of the CaloChallenge."""

import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from calojax.cli.arguments import parse
from calojax.errors import printable
from calojax.io import download as zenodo


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parse(download, "calojax download", arguments)()


def download(
    dataset: tyro.conf.Positional[Literal["1-photons", "1-pions", "2", "3"]],
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
