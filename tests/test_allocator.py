"""The allocator: large buffers that are freed are there again, without new pages."""

import subprocess
import sys

CODE = """
import resource
import numpy as np
from calojax.cli.process import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**27, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

new_pages()
given_back = new_pages()
keep_freed_memory()
new_pages()
print(given_back, new_pages())
"""


def test_freed_memory_is_used_again():
    given_back, kept = subprocess.check_output([sys.executable, "-c", CODE], text=True).split()
    # 128 MiB are 32768 pages of 4 KiB, or 64 huge ones.
    assert int(kept) < 32
    assert int(given_back) >= 64
