"""Which scores do several evaluations have? One Markdown table of their metrics.json.

    python benchmarks/table.py generated=EVALUATION reconstructed=EVALUATION Geant4=EVALUATION

A column for every model of every NAME=FOLDER that ``calojax evaluate`` wrote, in this order; a row
for every score that one of them has, named as in the CaloChallenge's tables.
"""

import json
import math
import pathlib

import tyro

from calojax.evaluation.suite import SCORES
from calojax.report.tables import cell


def main(columns: tyro.conf.Positional[tuple[str, ...]]) -> None:
    """Prints the table.

    Args:
      columns: FOLDER, or NAME=FOLDER to name the column, each.
    """
    found: list[tuple[str, dict[str, float]]] = []
    for column in columns:
        *names, folder = column.split("=", 1)
        content = json.loads((pathlib.Path(folder) / "metrics.json").read_text())
        models = content.get("models", [content])
        for model in models:
            scores = {k: math.nan if v is None else v for k, v in model["scores"].items()}
            own = [model["name"]] if len(models) > 1 or not names else []
            found.append((" ".join([*names, *own]), scores))
    print("| score |" + "".join(f" {name} |" for name, _ in found))
    print("|---" * (1 + len(found)) + "|")
    for key, score in SCORES.items():
        if any(key in scores for _, scores in found):
            print(f"| {score.name} |" + "".join(f" {cell(s, key)} |" for _, s in found))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
