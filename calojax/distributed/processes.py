"""Several processes that train one model or sample one list of energies, on one machine or many.

Process 0 listens at the coordinator's address. There calojax first calls the roll, because JAX
itself ends a process with a stack trace when another one does not come; then JAX takes the address
over (`jax.distributed`). From then on `jax.devices()` are the devices of all processes, and every
process must run the same computations over them in the same order.

All processes need the same files: the data to read, and the folder of the run on a file system that
they share. Only process 0 writes to that folder.
"""

import atexit
import contextlib
import dataclasses
import os
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calojax.errors import CalojaxError

_PATIENCE = 120.0  # seconds until all processes must have come
# Seconds: of silence after which a process is lost, and to wait at exit for others that are alive.
_TIMES = {"heartbeat_timeout_seconds": 20, "shutdown_timeout_seconds": 10**6}
_LAST_WORDS = 1.0  # seconds that process 0 leaves to others which stop for the same reason
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "oordination service", "by peer")


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a run; by default there is only this one.

    Attributes:
      coordinator: HOST:PORT of process 0, for all processes the same; or auto, where the cluster
        tells (SLURM, Open MPI, Kubernetes, Cloud TPU).
      processes: how many there are; auto knows.
      process: which of them this is, from 0; auto knows.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


ALONE = Group()


@contextlib.contextmanager
def joined(group: Group) -> Iterator[None]:
    """Within it, this process is one of a group; the first thing to ask of JAX.

    A process that is done waits at exit for the others. One that leaves by an exception does not:
    they see that it is gone, and end too.

    Raises:
      CalojaxError: if the arguments are incomplete or contradict those of other processes, if the
        others do not come, or if one of them is lost later.
    """
    if not _join(group):
        yield
        return
    try:
        _meet()
        yield
    except BaseException as error:
        # JAX would wait at exit for processes that are waiting for this one.
        atexit.register(_leave, _status(error))
        if _lost(error):
            reason = str(error).strip().split("\n")[0][:150]
            raise CalojaxError(
                f"Process {index()} of {count()} has lost another one and stops ({reason}); see "
                "what the other says and start again, training with --resume; the number of "
                "processes may be another."
            ) from None
        raise


@contextlib.contextmanager
def sharing(group: Group) -> Iterator[tuple[int, int]]:
    """As `joined`, for work of which each process can do its share without the others.

    Then --processes and --process do without a coordinator, and processes may come when they like:
    this is how the tasks of an array job share.

    Yields:
      Which process this is, from 0, and how many there are.

    Raises:
      CalojaxError: see `joined`.
    """
    if group.coordinator is None and None not in (group.processes, group.process):
        _check_numbers(group.process, group.processes)
        yield group.process, group.processes
        return
    with joined(group):
        yield index(), count()


def index() -> int:
    """Which process this is, from 0."""
    return jax.process_index()


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return index() == 0


def barrier(name: str) -> None:
    """Returns when all processes are there."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def check_same(**facts: object) -> None:
    """Refuses to go on if the processes do not agree on ``facts``, by their texts.

    Raises:
      CalojaxError: in all processes, with the names of the facts that differ.
    """
    if count() == 1 or not facts:
        return
    digests = np.array([zlib.crc32(str(fact).encode()) for fact in facts.values()], np.uint32)
    everyone = multihost_utils.process_allgather(digests)
    differing = [
        name for name, found in zip(facts, everyone.T, strict=True) if len(np.unique(found)) > 1
    ]
    if differing:
        raise CalojaxError(
            f"The processes differ in {' and '.join(differing).replace('_', ' ')}; start all of "
            "them with the same arguments, on files that all of them can read."
        )


def agreed(asked: Callable[[], bool], *, every: int = 8) -> Callable[[], bool]:
    """A question whose answer turns to yes in all processes at the same call.

    Several processes must stop at the same step, so each ``every``-th call sends this process's
    answer to all, and takes in what was sent ``every`` calls before: nobody waits. With a single
    process the question itself comes back.

    Args:
      asked: this process's answer, for instance whether it got a signal.
      every: calls between two exchanges.
    """
    if count() == 1:
        return asked
    ask_all = _poll()
    calls, on_the_way, answer = 0, None, False

    def ask() -> bool:
        nonlocal calls, on_the_way, answer
        calls += 1
        if answer or calls % every:
            return answer
        if on_the_way is not None:
            answer = bool(on_the_way)
        on_the_way = ask_all(asked())
        return answer

    return ask


def _poll() -> Callable[[bool], jax.Array]:
    """A function of each process's answer that all call: whether one is yes, when it is read."""
    mesh = Mesh(np.asarray(jax.devices()), ("device",))
    shared = NamedSharding(mesh, PartitionSpec("device"))
    anyone = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def ask_all(answer: bool) -> jax.Array:
        here = np.full(jax.local_device_count(), answer)
        return anyone(jax.make_array_from_process_local_data(shared, here))

    return ask_all


def _meet() -> None:
    """Has processes and devices make their connections while all of them are here.

    The first computation makes them, and on CPUs it gives the others half a minute to come; they
    may take longer to read their data.
    """
    barrier("joined")
    _poll()(False).block_until_ready()


def _join(group: Group) -> bool:
    """Joins the group; whether there is one."""
    given = [value is not None for value in (group.processes, group.process)]
    if group.coordinator is None:
        if any(given):
            raise CalojaxError(
                "--processes and --process need --coordinator HOST:PORT, the address of process 0."
            )
        return False
    # Its handler would take SIGTERM away from calojax, which stops with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    if group.coordinator == "auto":
        if any(given):
            raise CalojaxError(
                "--coordinator auto takes the processes from the cluster; leave out --processes "
                "and --process, or give --coordinator HOST:PORT."
            )
        _join_cluster()
        return True
    if not all(given):
        raise CalojaxError(
            f"--coordinator {group.coordinator} needs both --processes (how many there are) and "
            "--process (which of them this is, from 0)."
        )
    _check_numbers(group.process, group.processes)
    host, _, port = group.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise CalojaxError(
            f"--coordinator {group.coordinator!r} is not HOST:PORT, as in node001:31415, nor auto."
        )
    if group.process == 0:
        _call_roll(int(port), group.processes)
    else:
        _answer(host.strip("[]"), int(port), group.process, group.processes)
    jax.distributed.initialize(
        group.coordinator,
        group.processes,
        group.process,
        # All devices of the machine, also where a batch system numbers its tasks.
        cluster_detection_method="deactivate",
        **_TIMES,
    )
    return True


def _check_numbers(process: int, num: int) -> None:
    if num < 1:
        raise CalojaxError(f"--processes {num} is none; there is at least one.")
    if not 0 <= process < num:
        raise CalojaxError(
            f"--process {process} is none of {num} processes; they are numbered 0 to {num - 1}."
        )


def _join_cluster() -> None:
    try:
        jax.distributed.initialize(**_TIMES)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:150]
        raise CalojaxError(
            f"--coordinator auto found no cluster that it knows ({reason}); give --coordinator "
            "HOST:PORT, --processes and --process."
        ) from None


def _call_roll(port: int, num: int) -> None:
    """As process 0: returns when all others have called, and tells them so."""
    deadline = time.monotonic() + _PATIENCE
    present: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_server(port))
        except OSError as error:
            raise CalojaxError(
                f"Process 0 cannot listen on port {port} ({error.strerror}); is another process 0 "
                "running? Otherwise choose another port in --coordinator."
            ) from None
        while len(present) < num - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                caller, _ = server.accept()
            except TimeoutError:
                missing = sorted(set(range(1, num)) - present.keys())
                raise CalojaxError(
                    f"Of {num} processes, {', '.join(map(str, missing))} did not come within "
                    f"{_PATIENCE:.0f} s; start all of them at about the same time."
                ) from None
            stack.enter_context(caller)
            process, wrong = _called(caller, num, present)
            if wrong:
                for other in (caller, *present.values()):
                    _tell(other, wrong)
                raise CalojaxError(wrong)
            if process is not None:
                present[process] = caller
        for caller in present.values():
            _tell(caller, "go")


def _server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _called(caller: socket.socket, num: int, present) -> tuple[int | None, str]:
    """Which process calls, None if it is a stranger; and what is wrong with it."""
    caller.settimeout(5.0)
    try:
        name, process, processes = caller.makefile().readline(80).split()
        process, processes = int(process), int(processes)
    except (OSError, ValueError):
        return None, ""
    if name != "calojax":
        return None, ""
    if processes != num:
        return process, (
            f"Process {process} was started with --processes {processes} and process 0 with "
            f"--processes {num}; give all of them the same."
        )
    if process in present:
        return process, f"Two processes were started with --process {process}; number them anew."
    return process, ""


def _tell(caller: socket.socket, words: str) -> None:
    with contextlib.suppress(OSError):
        caller.sendall(f"{words}\n".encode())


def _answer(host: str, port: int, process: int, num: int) -> None:
    """As another process: calls process 0 and returns when it says that all are there."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with socket.create_connection((host, port), timeout=5.0) as connection:
                if connection.getsockname() == connection.getpeername():
                    # Where no one listens, the system may give a client that very port.
                    raise ConnectionRefusedError("nobody listens there")
                connection.sendall(f"calojax {process} {num}\n".encode())
                connection.settimeout(_PATIENCE + 5.0)
                words = connection.makefile().readline(400).strip()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise CalojaxError(
                    f"--coordinator {host}:{port} does not answer ({error.strerror or error}); is "
                    "process 0 running on that host, and is the port open to this one?"
                ) from None
            time.sleep(0.1)
    if words != "go":
        raise CalojaxError(words or f"Process 0 at {host}:{port} stopped before all were there.")


def _lost(error: BaseException) -> bool:
    """Whether an exception of JAX says that another process is gone."""
    if not isinstance(error, RuntimeError | ValueError):
        return False
    return any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def _status(error: BaseException) -> int:
    """The exit status that the command line gives to an exception."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        # JAX ends the others as soon as process 0 is gone.
        time.sleep(_LAST_WORDS)
    os._exit(status)
