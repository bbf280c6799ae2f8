"""What the makers' data sheets say about chips, and which of them libtpu knows.

Left out: chips that have not been planned for yet. Add a row; nothing else changes.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them.

    Attributes:
        name: what the user writes.
        memory: GiB of the device.
        reserve: GiB of it that no program gets: on a GPU the CUDA context, loaded
            kernels and what the allocator cannot use; on a TPU the system's own part.
        flops: dense bfloat16 operations a second (T4: float16).
        bandwidth: bytes a second between the chip and its memory.
        link: bytes a second that leave the device towards its neighbours, all links
            together; 0 for a device planned for alone.
    """

    name: str
    memory: float
    reserve: float
    flops: float
    bandwidth: float
    link: float = 0.0

    @property
    def usable(self) -> int:
        """Bytes that a program may take."""
        return int((self.memory - self.reserve) * GIB)


# The reserve of a GPU is a round figure, not measured for each card: about 0.5 GiB of
# context and kernels, and 2 % that fragmentation takes.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("t4", 15.0, 0.8, 65e12, 320e9),
        Chip("l4", 22.5, 1.0, 121e12, 300e9),
        Chip("a100-40", 40.0, 1.3, 312e12, 1555e9),
        Chip("a100-80", 80.0, 2.1, 312e12, 2039e9),
        Chip("h100", 79.6, 2.1, 989e12, 3350e9),
        # libtpu states 15.75 GiB of 16 for v5e, and proportionally for the others.
        Chip("v5e", 16.0, 0.25, 197e12, 819e9, 200e9),
        Chip("v5p", 95.0, 0.26, 459e12, 2765e9, 600e9),
        Chip("v6e", 32.0, 0.75, 918e12, 1640e9, 448e9),
        # Two devices a chip: libtpu describes the cores of these apart.
        Chip("v4", 16.0, 0.5, 137.5e12, 614e9, 150e9),
        Chip("v3", 16.0, 0.25, 61.5e12, 450e9, 82e9),
    )
}
TPUS = ("v3", "v4", "v5e", "v5p", "v6e")


def of(target) -> Chip:
    """The chip of a GPU's name or of a TPU topology such as `v5e:2x4`.

    Raises:
        ValueError: not in the table.
    """
    name = target.partition(":")[0].lower()
    if name not in CHIPS:
        gpus = ", ".join(name for name in CHIPS if name not in TPUS)
        raise ValueError(
            f"device {target!r} is not known. GPUs: {gpus}; TPUs, with their topology: "
            + ", ".join(f"{name}:..." for name in TPUS)
            + ", for example v5e:2x4."
        )
    return CHIPS[name]


def is_tpu(target) -> bool:
    """Whether a target is a TPU topology."""
    return of(target).name in TPUS


def tpu_devices(topology):
    """Descriptions of the chips of a TPU topology; none of them is needed.

    Args:
        topology: `v5e:2x4`, `v6e:1x1`, ...; the chips in each direction.

    Raises:
        ImportError: libtpu is not installed.
        ValueError: no such topology.
    """
    import importlib.util
    import os

    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            "Planning for a TPU needs its compiler, libtpu, which runs on any Linux "
            "machine: pip install 'codegemma-keras[tpu]'."
        )
    # Or libtpu asks the network for a TPU's metadata, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    name, _, shape = topology.lower().partition(":")
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(
            f"topology {topology!r}: write the chips in each direction, as in "
            f"{name}:2x4 (one chip: {name}:1x1; v4 and v5p have three directions)."
        )
    # A part of a host's chips must be described as a host of its own.
    odd = any(int(size) % 2 for size in sizes[:2])
    options = {"chips_per_host_bounds": (1, 1, 1)} if odd else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{shape}", **options
        )
    except Exception as error:  # jax raises its own errors of several classes
        raise ValueError(f"topology {topology!r}: libtpu says {error}") from None
    return list(found.devices)
