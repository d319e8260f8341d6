"""Which scores do several evaluations have? One Markdown table of their metrics.json.

    python benchmarks/table.py generated=EVALUATION reconstructed=EVALUATION Geant4=EVALUATION

A column for every NAME=FOLDER that ``calojax evaluate`` wrote, in this order; a row for every score
that one of them has, named as in the CaloChallenge's tables.
"""

import json
import pathlib
from typing import Any

import tyro

from calojax.evaluation.suite import SCORES


def main(columns: tyro.conf.Positional[tuple[str, ...]]) -> None:
    """Prints the table.

    Args:
      columns: NAME=FOLDER each.
    """
    named = dict(column.split("=", 1) for column in columns)
    found = {name: read(pathlib.Path(folder)) for name, folder in named.items()}
    print("| score |" + "".join(f" {name} |" for name in found))
    print("|---" * (1 + len(found)) + "|")
    for key, metric in SCORES.items():
        if any(key in scores for scores in found.values()):
            cells = [cell(scores, key, metric.scale) for scores in found.values()]
            print(f"| {metric.name} |" + "".join(f" {text} |" for text in cells))


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The scores of an evaluation."""
    return json.loads((folder / "metrics.json").read_text())["scores"]


def cell(scores: dict[str, Any], key: str, factor: float) -> str:
    """A score with its error, if there are such."""
    if key not in scores:
        return "–"
    value, error = scores[key] * factor, scores.get(f"{key}_error")
    digits = 1 if abs(value) >= 10 else 5 if 0 < abs(value) < 1e-3 else 4
    text = f"{value:.{digits}f}"
    return text if error is None else f"{text} ± {error * factor:.{digits}f}"


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
