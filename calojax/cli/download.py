"""``calojax download``: fetches the CaloChallenge's data sets."""

import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from calojax.errors import printable
from calojax.io import download as zenodo


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(download, prog="calojax download", args=arguments)


def download(
    dataset: tyro.conf.Positional[Literal["1-photons", "1-pions", "2", "3"]],
    folder: pathlib.Path = pathlib.Path("data"),
) -> None:
    """Fetches the files of a CaloChallenge data set from Zenodo, unless they are there already.

    Args:
      dataset: which.
      folder: where to put them.
    """
    for path in zenodo.download(dataset, folder):
        print(printable(path))
