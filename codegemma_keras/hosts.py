"""Several processes that train one model, such as one on each host of a TPU pod.

Every process runs the same program on the same data. Each one computes its own rows of a
batch, all of them hold the same losses, and the first one writes the files.

Only JAX has several processes. With one, a function returns what it was given, and waits
for nothing. Functions that say "together" must be called by all processes, in the same
order, or those that called wait for ever.
"""

import keras
import numpy as np


def begin():
    """Find the other processes; call it before anything asks for a device.

    On a TPU pod and under SLURM they are found. Elsewhere the variables
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `..._NUM_PROCESSES` and `..._PROCESS_ID` name them.

    Raises:
        RuntimeError: the backend is not JAX, or devices were asked for before.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "several_hosts=True needs the JAX backend, and this is "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=jax before Keras is imported."
        )
    import jax

    if jax.distributed.is_initialized():
        return
    if jax.config.jax_platforms == "cpu":  # or JAX refuses several processes on a CPU
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize()


def several() -> bool:
    """Whether there is more than one process."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    # The count alone would start JAX's devices, and `begin` may still come.
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process writes the files."""
    if not several():
        return True
    import jax

    return jax.process_index() == 0


def to_host(value) -> np.ndarray:
    """All of a tensor, also of one whose parts lie on other hosts; together.

    Args:
        value: tensor of the backend.
    """
    if several() and not value.is_fully_addressable and not value.is_fully_replicated:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(value, tiled=True))
    return keras.ops.convert_to_numpy(value)


def own_rows(count) -> slice:
    """Which rows of a batch this process gives to a step.

    Args:
        count: int, rows of the batch over all processes.
    """
    mesh = keras.distribution.distribution()
    if not several() or mesh is None:
        return slice(0, count)
    import jax

    spec = jax.sharding.PartitionSpec(mesh.batch_dim_name)
    layout = jax.sharding.NamedSharding(mesh.device_mesh.backend_mesh, spec)
    parts = layout.addressable_devices_indices_map((count,)).values()
    starts, stops, _ = zip(*(part[0].indices(count) for part in parts), strict=True)
    # Neighbours: `sharding` puts the devices of a process beside each other.
    return slice(min(starts), max(stops))


def largest(number: int) -> int:
    """The largest of the numbers that the processes give; together."""
    if not several():
        return number
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def wait(why: str):
    """Wait until every process is here; together.

    Args:
        why: names the place, the same in all processes.
    """
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(why)
