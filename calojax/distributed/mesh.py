"""The one-dimensional device mesh: batches are sharded over ``data``, everything else replicated.

All arrays are global: a jitted function over sharded batches computes what it would on one device,
and XLA inserts the sums. The devices may belong to several processes
(see `calojax.distributed.processes`).
Axes are Auto because Flax's recurrent cells and embeddings do not accept the Explicit axes that
`jax.make_mesh` makes by default.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from calojax.errors import CalojaxError

AXIS = "data"


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over ``devices`` (default: all of `jax.devices()`)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def sharded(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays whole on every device; all processes must hold the same."""
    whole = replicated(mesh)

    def put(leaf: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, whole, lambda _: host)

    return jax.tree.map(put, tree)


def round_up(batch: int, mesh: Mesh) -> int:
    """The smallest multiple of the device count that is not below ``batch``."""
    return -(-batch // mesh.size) * mesh.size


@contextlib.contextmanager
def full_memory_reported(advice: str) -> Iterator[None]:
    """Turns the errors of a memory that is full into one sentence that ends with ``advice``.

    Raises:
      CalojaxError: instead of JAX's RESOURCE_EXHAUSTED and of MemoryError.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        kind = jax.default_backend().upper()
        raise CalojaxError(f"The memory of the {kind} is full; {advice}.") from None
