"""Chips: what their data sheets say, which one is here, and the arithmetic of a step.

One table for everything that asks about a chip: the dtype that a recipe computes in, the
share of the peak that a run reaches (MFU), and `codegemma plan`.

What the mathematics of a step needs is counted, not what a program happens to do:
recomputation (`remat`) and padding masks add nothing, a packed row counts attention over
its whole length. A product `[m, k] @ [k, n]` is `2 m k n` operations.

Left out: chips that have not been planned for yet. Add a row; nothing else changes.

Shape letters: D width, F ffn width, V vocabulary, L layers, N and K query and key/value
heads, H head size, T tokens of a row.
"""

import dataclasses
import os
import pathlib

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, by its maker's data sheet.

    Attributes:
        name: what the user writes.
        kinds: parts of the names that a backend gives to the device.
        memory: GiB.
        reserve: GiB of it that no program gets: on a GPU the CUDA context, loaded
            kernels and what the allocator cannot use; on a TPU the system's own part.
        flops: dense operations a second in `half` precision, without sparsity.
        bandwidth: bytes a second between the chip and its memory.
        link: bytes a second that leave the chip towards its neighbours, all links
            together; 0 for a chip that is planned for alone.
        half: the 16-bit dtype that it computes fast in.
        cores: devices that libtpu describes for one chip when it compiles for a chip
            that is not there.
    """

    name: str
    kinds: tuple[str, ...]
    memory: float
    reserve: float
    flops: float
    bandwidth: float
    link: float = 0.0
    half: str = "bfloat16"
    cores: int = 1

    @property
    def usable(self) -> int:
        """Bytes that a program may take of one described device."""
        return int((self.memory - self.reserve) / self.cores * GIB)


# Sources: NVIDIA's data sheets; Google Cloud's pages "TPU v3" to "TPU v6e". A v4 has
# 275e12 operations a second and 32 GiB at 1,200 GB/s.
# The reserve of a GPU is a round figure, not measured for each card: about 0.5 GiB of
# context and kernels, and 2 % that fragmentation takes. libtpu states 15.75 GiB of 16 for
# a v5e; the other TPUs are taken in proportion.
# The more special name of two that begin alike stands first.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("t4", ("T4",), 15.0, 0.8, 65e12, 320e9, half="float16"),
        Chip("l40s", ("L40S",), 45.0, 1.4, 362e12, 864e9),
        Chip("l40", ("L40",), 45.0, 1.4, 181e12, 864e9),
        Chip("l4", ("L4",), 22.5, 1.0, 121e12, 300e9),
        Chip("a100-80", ("A100-SXM4-80", "A100 80"), 80.0, 2.1, 312e12, 2039e9),
        Chip("a100-40", ("A100",), 40.0, 1.3, 312e12, 1555e9),
        Chip("h200", ("H200",), 140.4, 3.3, 989e12, 4800e9),
        Chip("h100-pcie", ("H100 PCIe",), 79.6, 2.1, 756e12, 2000e9),
        Chip("h100", ("H100",), 79.6, 2.1, 989e12, 3350e9),
        Chip("v3", ("TPU v3",), 32.0, 0.5, 123e12, 900e9, 164e9, cores=2),
        Chip("v4", ("TPU v4",), 32.0, 0.5, 275e12, 1200e9, 300e9, cores=2),
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 16.0, 0.25, 197e12, 819e9, 200e9),
        Chip("v5p", ("TPU v5",), 95.0, 1.5, 459e12, 2765e9, 600e9),
        Chip("v6e", ("TPU v6",), 32.0, 0.5, 918e12, 1640e9, 448e9),
    )
}
TPUS = ("v3", "v4", "v5e", "v5p", "v6e")
# Google's names of slices by their number of chips, such as v5e-8.
_SLICES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
_SLICES |= {128: "8x16", 256: "16x16"}


def target(name) -> str:
    """What a user writes behind `--on`, in one form: `l4`, `v5e:2x4`.

    `v5e-8` and `v6e-16` count chips, as Google's names of slices do.

    Raises:
        ValueError: not in the table, or a TPU without a topology.
    """
    name = name.lower()
    if name in CHIPS and name not in TPUS:
        return name
    chip, _, count = name.partition("-")
    if chip in ("v5e", "v6e") and count.isdecimal() and int(count) in _SLICES:
        return f"{chip}:{_SLICES[int(count)]}"
    chip, _, shape = name.partition(":")
    if chip in TPUS and shape:
        return name
    gpus = ", ".join(name for name in CHIPS if name not in TPUS)
    raise ValueError(
        f"device {name!r} is not known. GPUs: {gpus}; TPUs by their number of chips: "
        f"v5e-N and v6e-N, where N is one of {', '.join(map(str, _SLICES))}; or by their "
        "topology: v3:2x2, v4:2x2x1, v5e:2x4, v5p:2x2x1, v6e:1x1."
    )


def chip_of(name) -> Chip:
    """The chip of a target; see `target`."""
    return CHIPS[target(name).partition(":")[0]]


def is_tpu(name) -> bool:
    """Whether a target is a TPU."""
    return chip_of(name).name in TPUS


def tpu_devices(name):
    """Descriptions of the chips of a TPU target; none of them is needed.

    Args:
        name: `v5e-8`, `v5e:2x4`, `v6e:1x1`, ...; the chips in each direction.

    Raises:
        ImportError: libtpu is not installed.
        ValueError: no such topology.
    """
    import importlib.util

    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            "Planning for a TPU needs its compiler, libtpu, which runs on any Linux "
            "machine: pip install 'codegemma-keras[tpu]'."
        )
    # Or libtpu asks the network for a TPU's metadata, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    topology = target(name)
    chip, _, shape = topology.partition(":")
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(
            f"topology {name!r}: write the chips in each direction, as in {chip}:2x4 "
            f"(one chip: {chip}:1x1; v4 and v5p have three directions)."
        )
    # A part of a host's chips must be described as a host of its own.
    odd = any(int(size) % 2 for size in sizes[:2])
    options = {"chips_per_host_bounds": (1, 1, 1)} if odd else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:  # jax raises its own errors of several classes
        raise ValueError(f"topology {name!r}: libtpu says {error}") from None
    return list(found.devices)


# --- The device that is here --------------------------------------------------------


def device_name() -> str:
    """What the backend calls the first device; `"cpu"` where there is no accelerator."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        return "cpu"
    return tf.config.experimental.get_device_details(found[0]).get("device_name", "gpu")


def known(device=None) -> Chip | None:
    """The chip of a backend's device; None where the table has none.

    Args:
        device: str, a device's name; default: that of the first one here.
    """
    name = device_name() if device is None else device
    for chip in CHIPS.values():
        if any(kind in name for kind in chip.kinds):
            return chip
    return None


def half_precision(device=None) -> str | None:
    """The 16-bit dtype to compute in; None on a CPU.

    Args:
        device: as of `known`. An accelerator that is not in the table counts as a recent
            one, which has bfloat16.
    """
    name = device_name() if device is None else device
    if name == "cpu":
        return None
    chip = known(name)
    return chip.half if chip else "bfloat16"


def mixed_policy(device=None, cpuinfo="/proc/cpuinfo") -> str:
    """The dtype policy in which all weights train fastest; the weights are float32.

    A CPU is fast in bfloat16 only if it has units for such matrices (AMX). With them the
    embedded preset trained 1.1 times as fast as in float32 with TensorFlow and 1.4 times
    with JAX. Without them TensorFlow was slower than in float32, by up to 2.7 times
    (`benchmarks/train_dtypes.py`).

    Args:
        device: as of `known`.
        cpuinfo: the file in which Linux says what the processor has.

    Examples:
        >>> from codegemma_keras.training import hardware
        >>> hardware.mixed_policy("Tesla T4")
        'mixed_float16'
    """
    name = device_name() if device is None else device
    half = half_precision(name)
    if half is None:
        try:
            flags = pathlib.Path(cpuinfo).read_text("utf-8", "replace")
        except OSError:  # not Linux
            flags = ""
        half = "bfloat16" if "amx_bf16" in flags else None
    return f"mixed_{half}" if half else "float32"


def peak_flops(device=None) -> float | None:
    """Peak operations a second of one device; None where no data sheet states it.

    Args:
        device: as of `known`. Of a v3 JAX shows each of the two cores as a device.
    """
    chip = known(device)
    if chip is None:
        return None
    return chip.flops / (2 if chip.name == "v3" else 1)


# --- The arithmetic of a step -------------------------------------------------------


def matrix_weights(sizes) -> int:
    """Weights that each token is multiplied with: L blocks, and the head `V D`.

    Args:
        sizes: dict, `CodeGemmaBackbone.get_config()`.
    """
    heads = 2 * sizes["num_query_heads"] + 2 * sizes["num_key_value_heads"]
    width = sizes["hidden_dim"]
    attention = heads * sizes["head_dim"] * width
    ffn = 3 * width * (sizes["intermediate_dim"] // 2)
    return sizes["num_layers"] * (attention + ffn) + sizes["vocabulary_size"] * width


def flops_per_token(sizes, length, adapter_weights=0) -> float:
    """Operations of a training step for each token of a row.

    Forward 2 a weight; backward 2 for the gradient of the input and 2 for that of the
    weight, which frozen ones under an adapter do not need. Attention: scores and mix are
    `2 T N H` each a token, half of it masked away, and backward twice forward.

    Args:
        sizes: as of `matrix_weights`.
        length: int. T.
        adapter_weights: int, all weights of the adapters that train alone; 0: all
            weights train.
    """
    matrices = matrix_weights(sizes)
    heads = sizes["num_query_heads"] * sizes["head_dim"]
    attention = sizes["num_layers"] * 2 * length * heads
    if adapter_weights:
        return 4 * matrices + 6 * adapter_weights + 3 * attention
    return 6 * matrices + 3 * attention
