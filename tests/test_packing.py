"""Packed chunks are what HDF5 makes and reads; the conveyor keeps order and bounds."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from calojax.io.packing import FILTERS, Column, Conveyor, chunk_conveyor, packed


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16, np.uint64])
@pytest.mark.parametrize("shape", [(10,), (4, 3)])
def test_columns_read_back_as_what_h5py_wrote(dtype, shape, tmp_path):
    values = np.random.default_rng(0).integers(0, 200, (25, *shape[1:])).astype(dtype)
    for name, grows in (("fixed", False), ("growing", True)):
        with h5py.File(tmp_path / name, "w") as file, ThreadPoolExecutor(3) as pool:
            first = (0 if grows else 25, *shape[1:])
            limits = (None, *shape[1:]) if grows else None
            dataset = file.create_dataset(
                "values", first, dtype, maxshape=limits, chunks=shape, **FILTERS
            )
            conveyor = chunk_conveyor(pool, limit=2)
            column = Column(dataset, conveyor)
            for batch in np.split(values, [1, 2, 13]):
                column.extend(batch)
            column.finish()
            conveyor.drain()
        with h5py.File(tmp_path / name) as file:
            np.testing.assert_array_equal(file["values"][:], values)
            chunks = [file["values"].id.get_chunk_info(i) for i in range(-(-25 // shape[0]))]
            assert {chunk.filter_mask for chunk in chunks} == {0}


def test_a_chunk_inflates_to_what_hdf5_inflates_to(tmp_path):
    values = np.float32([[0, 1.5, 0], [2.25, 0, 1e-9]])
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        dataset = file.create_dataset("values", data=values, chunks=(2, 3), **FILTERS)
        file.flush()
        theirs = dataset.id.read_direct_chunk((0, 0))[1]
        dataset.id.write_direct_chunk((0, 0), packed(values[::-1]))
        np.testing.assert_array_equal(dataset[:], values[::-1])
        dataset.id.write_direct_chunk((0, 0), theirs)
        np.testing.assert_array_equal(dataset[:], values)


def test_runs_of_zeros_cost_next_to_nothing():
    assert len(packed(np.zeros(2**18, np.float32))) < 2**12


def test_results_come_in_order_and_few_are_under_way():
    under_way, most, delivered = set(), [], []
    lock = threading.Lock()

    def work(item):
        time.sleep(0.002 * (item % 3))
        return item

    def deliver(item):
        with lock:
            under_way.discard(item)
        delivered.append(item)

    with ThreadPoolExecutor(4) as pool:
        conveyor = Conveyor(pool, work, deliver, limit=5)
        for item in range(40):
            with lock:
                under_way.add(item)
            conveyor.put(item)
            most.append(len(under_way))
        conveyor.drain()
    assert delivered == list(range(40))
    assert max(most) <= 5


def test_what_goes_wrong_in_a_thread_is_raised():
    def work(item):
        raise ValueError(f"item {item}")

    with ThreadPoolExecutor(1) as pool:
        conveyor = Conveyor(pool, work, print, limit=2)
        conveyor.put(7)
        with pytest.raises(ValueError, match="item 7"):
            conveyor.drain()
