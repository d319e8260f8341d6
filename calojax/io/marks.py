"""Marks that recognise single showers in whatever file they are.

A trained model keeps the marks of a few of its training showers, and the files that it writes carry
them as an attribute, so that an evaluation notices a reference that contains the training showers.
"""

import numpy as np

# The attribute of shower files.
TRAINED_ON = "trained_on"


def marks(showers: np.ndarray) -> np.ndarray:
    """A 64-bit mark of each shower: showers [n, v] in MeV -> uint64 [n].

    Computed from the bits of float32 values in integers, so that no rounding is involved. Showers
    that differ in one voxel have different marks, for an odd weight times a 32-bit number is
    one-to-one modulo 2^32.
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
