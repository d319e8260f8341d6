"""Packed chunks are what HDF5 makes and reads; the queue keeps order and bounds."""

import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from calojax.io.chunks import FILTERS, Column, Queue, packed


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint64])
@pytest.mark.parametrize("shape", [(10,), (4, 3)])
def test_columns_read_back_as_what_h5py_wrote(dtype, shape, tmp_path):
    values = np.random.default_rng(0).integers(0, 200, (25, *shape[1:])).astype(dtype)
    with h5py.File(tmp_path / "file", "w") as file, ThreadPoolExecutor(3) as pool:
        queue = Queue(pool)
        layout = {"tail": shape[1:], "rows": shape[0]}
        columns = [
            Column(queue, file, name, dtype, 25, grows=name == "growing", **layout)
            for name in ("fixed", "growing")
        ]
        for batch in np.split(values, [1, 2, 13]):
            for column in columns:
                column.extend(batch)
            queue.deliver(2)
        queue.finish()
    with h5py.File(tmp_path / "file") as file:
        for dataset in file.values():
            np.testing.assert_array_equal(dataset[:], values)
            chunks = [dataset.id.get_chunk_info(i) for i in range(-(-25 // shape[0]))]
            assert {chunk.filter_mask for chunk in chunks} == {0}


def test_a_chunk_inflates_to_what_hdf5_inflates_to(tmp_path):
    values = np.float32([[0, 1.5, 0], [2.25, 0, 1e-9]])
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        dataset = file.create_dataset("values", data=values, chunks=(2, 3), **FILTERS)
        file.flush()
        dataset.id.write_direct_chunk((0, 0), packed(values[::-1]))
        np.testing.assert_array_equal(dataset[:], values[::-1])


def test_results_come_in_order_and_few_are_under_way():
    delivered, most = [], []

    def work(item):
        time.sleep(0.002 * (item % 3))
        return item

    def deliver(item):
        delivered.append(item)
        if item % 10 == 0:  # Items of a delivery come after those that are there.
            queue.put(delivered.append, work, -item - 1)

    with ThreadPoolExecutor(4) as pool:
        queue = Queue(pool)
        for item in range(40):
            queue.put(deliver, work, item)
            queue.deliver(5)
            most.append(len(queue._waiting))
        queue.deliver()
    assert [item for item in delivered if item >= 0] == list(range(40))
    assert [item for item in delivered if item < 0] == [-1, -11, -21, -31]
    assert max(most) <= 5


def test_errors_of_a_thread_are_raised():
    def work(item):
        raise ValueError(f"item {item}")

    with ThreadPoolExecutor(1) as pool:
        queue = Queue(pool)
        queue.put(print, work, 7)
        with pytest.raises(ValueError, match="item 7"):
            queue.deliver()
