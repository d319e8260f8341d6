"""The allocator: large buffers that are freed are there again, without new pages."""

import subprocess
import sys

CODE = """
import resource, sys
import numpy as np
from calojax.cli.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(2**27, np.uint8)
before = faults()
np.ones(2**27, np.uint8)
print(faults() - before)
"""


def new_pages(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_freed_memory_is_used_again():
    # 128 MiB are 32768 pages of 4 KiB, or 64 huge ones.
    assert new_pages("keep") < 32
    assert new_pages("give back") >= 64
