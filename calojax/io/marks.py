"""Marks by which single showers are recognised in any file.

A trained model keeps the marks of a few of its training showers, and writes them into its shower
files as an attribute. So an evaluation notices a reference that contains training showers.
"""

import numpy as np

# The attribute of shower files that holds marks of training showers.
TRAINED_ON = "trained_on"


def marks(showers: np.ndarray) -> np.ndarray:
    """A 64-bit mark of each shower: showers [n, v] in MeV -> uint64 [n].

    They are computed from the bits of float32 values in integers, so nothing is rounded. Showers
    that differ in one voxel have different marks, since multiplying a 32-bit number by an odd
    weight is one-to-one modulo 2^32.
    """
    bits = np.ascontiguousarray(showers, np.float32).view(np.uint32)
    weights = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint32)
    high = np.bitwise_xor.reduce(bits * weights, axis=1).astype(np.uint64)
    return high << np.uint64(32) | bits.sum(1, dtype=np.uint32)


def to_text(values: np.ndarray) -> str:
    """Marks uint64 [n] as hexadecimal digits, 16 for each."""
    return values.astype(">u8").tobytes().hex()


def from_text(text: object) -> np.ndarray:
    """The inverse of `to_text`; empty for anything else."""
    try:
        return np.frombuffer(bytes.fromhex(str(text)), ">u8").astype(np.uint64)
    except ValueError:
        return np.zeros(0, np.uint64)
