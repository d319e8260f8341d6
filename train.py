"""Trains a model: ``python train.py PRESET --data FILE.hdf5 --out runs/NAME``."""

import sys

from calojax.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
