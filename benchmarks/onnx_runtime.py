"""Does another version of ONNX Runtime make JAX's showers, and how fast?

    python benchmarks/latency.py calovq-ds2 --keep FOLDER
    python -m venv old && old/bin/pip install onnxruntime==1.19.2
    old/bin/python benchmarks/onnx_runtime.py FOLDER/*.onnx

It needs NumPy and ONNX Runtime only, not calojax.
"""

import json
import pathlib
import statistics
import sys
import time

import numpy as np
import onnxruntime

for path in map(pathlib.Path, sys.argv[1:]):
    kept = np.load(path.with_suffix(".npz"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    equal, times = [], []
    for noise, expected in zip(kept["noise"], kept["expected"], strict=True):
        start = time.perf_counter()
        (showers,) = session.run(None, {"noise": noise, "energies": kept["energies"]})
        times.append(time.perf_counter() - start)
        equal.extend(np.isclose(showers, expected, rtol=1e-3, atol=1e-2).all(-1))
    row = {"file": path.name, "onnxruntime": onnxruntime.__version__, "showers": len(equal)}
    row |= {"equal_showers": float(np.mean(equal)), "ms_per_call": 1e3 * statistics.median(times)}
    print(json.dumps(row))
    if row["equal_showers"] < 0.99:
        sys.exit(f"{path}: showers differ from those of JAX.")
