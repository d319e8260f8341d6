"""Writes showers of a trained model: ``python sample.py runs/NAME --num N --out FILE.hdf5``."""

import sys

from calojax.cli import main

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
