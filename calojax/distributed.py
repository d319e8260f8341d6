"""Several devices and several processes that share the work of one run.

Devices form a one-dimensional mesh with the axis ``data``: batches are sharded over it, everything
else is replicated. All arrays are global: a jitted function over sharded batches computes what it
would compute on one device, and XLA inserts the sums. The devices may belong to several processes,
which must then run the same computations in the same order.

All processes read the same files, and the folder of a run is on a file system that they share. Only
process 0 writes to that folder.
"""

import atexit
import contextlib
import dataclasses
import functools
import itertools
import os
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from calojax.errors import CalojaxError, first_line

AXIS = "data"

_PATIENCE = 120.0  # seconds until all processes must have connected
_HEARTBEAT = 20  # seconds of silence after which a process is lost
_LAST_WORDS = 1.0  # seconds that process 0 leaves others to print their own error
_LONG = 10**6  # seconds: calojax, not JAX, decides how long to wait
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "oordination service", "by peer")


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over ``devices`` (default: all devices of all processes)."""
    devices = jax.devices() if devices is None else devices
    # Flax's recurrent cells and embeddings do not accept Explicit axes, the default of JAX.
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def sharded(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies arrays to every device; all processes must hold the same values."""
    put = functools.partial(jax.make_array_from_process_local_data, replicated(mesh))
    return jax.tree.map(lambda leaf: put(np.asarray(leaf)), tree)


def round_up(batch: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that is at least ``batch``."""
    return -(-batch // mesh.size) * mesh.size


def host_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_memory() -> int:
    """Bytes of memory of one device; on CPU its share of the machine's memory."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit", host_memory() // jax.local_device_count())


def sent_ahead(batches: Iterable[Any], sharding: NamedSharding | None = None) -> Iterator[Any]:
    """Trees of arrays on the devices, each sent while the one before is used.

    Wait for what is computed from one or the one before, or they would pile up on the devices.
    """
    sent = (jax.device_put(batch, sharding) for batch in batches)
    for batch, _ in itertools.pairwise(itertools.chain(sent, [None])):
        yield batch


@contextlib.contextmanager
def full_memory_reported(advice: str) -> Iterator[None]:
    """Turns JAX's RESOURCE_EXHAUSTED and MemoryError into one sentence that ends in ``advice``."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        kind = jax.default_backend().upper()
        raise CalojaxError(f"The memory of the {kind} is full; {advice}.") from None


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a run; by default this process is alone.

    Attributes:
      coordinator: HOST:PORT of process 0, the same for all processes; or auto, to ask the cluster
        (SLURM, Open MPI, Kubernetes, Cloud TPU).
      processes: number of processes; left out with auto.
      process: number of this process, from 0; left out with auto.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


ALONE = Group()


@contextlib.contextmanager
def joined(group: Group) -> Iterator[None]:
    """Connects this process to the others of a group; call it before anything else of JAX.

    A process that succeeds waits at exit for the others. A process that fails does not wait: the
    others notice that it is gone, and end too. Raises `CalojaxError` if not all processes connect,
    or one of them is lost later.
    """
    if group.coordinator is None:
        if (group.processes, group.process) != (None, None):
            raise CalojaxError(
                "--processes and --process need --coordinator HOST:PORT, the address of process 0."
            )
        yield
        return
    arguments = _arguments(group)
    connected = False
    try:
        _connect(group.coordinator, arguments)
        connected = True
        # The first collective operations connect processes and devices, for which a CPU waits half
        # a minute: do them now, before processes read their data at different speeds.
        multihost_utils.sync_global_devices("joined")
        _any_process()(False).block_until_ready()
        yield
    except BaseException as error:
        # JAX would wait at exit for processes that wait for this one.
        atexit.register(_leave, _status(error), wait=connected and is_first())
        if isinstance(error, RuntimeError | ValueError) and any(
            sign in str(error) for sign in _SIGNS_OF_LOSS
        ):
            raise CalojaxError(
                f"Process {jax.process_index()} of {jax.process_count()} has lost another process "
                f"and stops ({first_line(error)}); read the other's error and start again, a "
                "training with --resume; the number of processes may change."
            ) from None
        raise


@contextlib.contextmanager
def sharing(group: Group) -> Iterator[tuple[int, int]]:
    """Like `joined`, for work that processes can split without talking to each other.

    Then --processes and --process suffice without a coordinator, and processes may start at any
    time, such as the tasks of an array job. Yields the number of this process, from 0, and the
    number of processes.
    """
    if group.coordinator is None and group.processes is not None and group.process is not None:
        _check_numbers(group.process, group.processes)
        yield group.process, group.processes
        return
    with joined(group):
        yield jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, which writes and prints for all."""
    return jax.process_index() == 0


def check_same(**facts: object) -> None:
    """Raises `CalojaxError` in all processes if their ``facts`` differ, compared as text."""
    digests = np.array([zlib.crc32(str(fact).encode()) for fact in facts.values()], np.uint32)
    everyone = np.asarray(multihost_utils.process_allgather(digests))
    differing = np.array(list(facts))[(everyone != everyone[0]).any(0)]
    if len(differing):
        raise CalojaxError(
            f"The processes differ in {' and '.join(differing).replace('_', ' ')}; start all of "
            "them with the same arguments, on files that all of them can read."
        )


def agreed(asked: Callable[[], bool], *, every: int = 8) -> Callable[[], bool]:
    """Makes a question whose answer becomes yes in all processes at the same call.

    Several processes must stop at the same step, whichever of them got the signal. Each
    ``every``-th call sends this process's answer to all and reads what was sent ``every`` calls
    before, so no process waits. With a single process the question itself comes back.
    """
    if jax.process_count() == 1:
        return asked
    any_process = _any_process()
    calls, sent, answer = 0, None, False

    def ask() -> bool:
        nonlocal calls, sent, answer
        calls += 1
        if not answer and calls % every == 0:
            answer = sent is not None and bool(sent)
            sent = any_process(asked())
        return answer

    return ask


def _any_process() -> Callable[[bool], jax.Array]:
    """A function that all processes call with their answers: whether one of them is yes."""
    mesh = make_mesh()
    anyone = jax.jit(jnp.any, out_shardings=replicated(mesh))

    def any_process(answer: bool) -> jax.Array:
        here = np.full(jax.local_device_count(), answer)
        return anyone(jax.make_array_from_process_local_data(sharded(mesh), here))

    return any_process


def _arguments(group: Group) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize` for a group with a coordinator."""
    process, processes, address = group.process, group.processes, group.coordinator or ""
    if address == "auto" and process is None and processes is None:
        return {}
    host, _, port = address.rpartition(":")
    valid = host and port.isdigit() and 0 < int(port) < 2**16
    if not valid or process is None or processes is None:
        raise CalojaxError(
            f"--coordinator {address}: give HOST:PORT, such as node001:31415, with --processes, "
            "how many there are, and --process, which of them this is, from 0; or auto alone."
        )
    _check_numbers(process, processes)
    if process == 0:
        try:  # JAX would crash.
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise CalojaxError(
                f"Process 0 cannot listen on port {port} ({error.strerror}); if no other process 0 "
                "is running, choose another port in --coordinator."
            ) from None
    return {
        "coordinator_address": address,
        "num_processes": processes,
        "process_id": process,
        # All devices of the machine, also where a batch system numbers its tasks.
        "cluster_detection_method": "deactivate",
    }


def _check_numbers(process: int, processes: int) -> None:
    if not 0 <= process < processes:
        raise CalojaxError(
            f"--process must be from 0 to one less than --processes, got {process} and {processes}."
        )


def _connect(coordinator: str, arguments: dict[str, Any]) -> None:
    """Starts `jax.distributed`.

    In another thread: when JAX runs out of patience, it aborts the process with a stack trace, and
    until then it does not react to signals.
    """
    # Its handler would take SIGTERM away from calojax, which stops with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    failures: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=_LONG,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_LONG,
            )
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        raise CalojaxError(
            f"--coordinator {coordinator}: not all processes connected within {_PATIENCE:.0f} s; "
            "start all of them at about the same time, with the same --processes and numbers "
            "--process from 0, and check that they can reach that port of process 0."
        )
    if failures:
        raise CalojaxError(
            f"--coordinator {coordinator} failed ({first_line(failures[0])}); give --coordinator "
            "HOST:PORT, --processes and --process."
        )


def _status(error: BaseException) -> int:
    """The exit status of the command line for an exception."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _leave(status: int, *, wait: bool) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if wait:
        # JAX ends the others as soon as process 0 is gone.
        time.sleep(_LAST_WORDS)
    os._exit(status)
