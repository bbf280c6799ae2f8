"""Many chips: a mesh in one string, and which axis splits which variable.

    from codegemma_keras import CodeGemmaCausalLM, sharding

    with sharding.use("fsdp=2,model=4", "code_gemma_7b_en"):
        lm = CodeGemmaCausalLM.from_preset("code_gemma_7b_en", dtype="bfloat16")
        lm.compile(...)
        lm.fit(...)

A mesh names up to two axes and how many devices each has:

* `data`: rows of the batch are split, every device holds all the weights;
* `fsdp`: rows are split, and so are weights and optimizer state (fully sharded): each
  layer's weights are collected when it is their turn;
* `model`: query heads, feed-forward width and vocabulary are split (tensor parallel):
  what flows between the layers is summed over the axis twice a block.

`data` and `fsdp` both divide the batch, so a mesh has one of them at most. The work is
done by `keras.distribution`, on JAX; the optimizer's state follows its variable.

Several hosts: see `hosts`. The mesh then counts the devices of all processes, and each
process gives `fit()` its own part of the rows.

Left out: pipelines and splitting a row over devices (sequence parallelism), which pay
for more chips than CodeGemma needs.

Shape letters: B batch, T tokens, D width, F ffn width, V vocabulary, N query heads, K
key/value heads, H head size.
"""

import contextlib
import math

import keras

from codegemma_keras import ops, presets

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")  # which of them split the rows


def parse_mesh(mesh: str) -> dict[str, int]:
    """`"data=2,model=4"` -> `{"data": 2, "model": 4}`, in the order of `AXES`.

    Raises:
        ValueError: an unknown or repeated axis, a size that is no whole number above 0,
            `data` beside `fsdp`.
    """
    sizes = {}
    for part in mesh.split(","):
        name, _, size = (text.strip() for text in part.partition("="))
        if name not in AXES:
            raise ValueError(
                f"mesh {mesh!r} has the axis {name!r}; write for example "
                "'data=2,model=4', with axes out of data, fsdp and model."
            )
        if name in sizes:
            raise ValueError(f"mesh {mesh!r} has the axis {name!r} twice.")
        if not size.isdecimal() or int(size) < 1:
            raise ValueError(
                f"mesh {mesh!r}: the size of {name!r} is {size!r}; it must be a whole "
                "number above 0, as in 'data=2,model=4'."
            )
        sizes[name] = int(size)
    if "data" in sizes and "fsdp" in sizes:
        raise ValueError(
            f"mesh {mesh!r}: 'data' and 'fsdp' both split the batch. Take 'data' if the "
            "weights fit on each device, 'fsdp' if not."
        )
    return {axis: sizes[axis] for axis in AXES if axis in sizes}


def distribution(mesh, *, num_query_heads, num_key_value_heads, devices=None):
    """The `keras.distribution.Distribution` of a mesh for a CodeGemma network.

    Args:
        mesh: str, such as `"data=2,model=4"`, `"fsdp=8"` or `"data=8"`.
        num_query_heads: int. N of the backbone.
        num_key_value_heads: int. K of the backbone.
        devices: list of devices, as many as the mesh has; default: all of them.

    Returns:
        A `keras.distribution.DataParallel` if every device holds all the weights, else
        a `keras.distribution.ModelParallel`. Enter its `scope()` (or call
        `keras.distribution.set_distribution`) before the model is built.

    Raises:
        ValueError: a malformed mesh, one that does not divide the query heads, or one of
            another size than there are devices.
        RuntimeError: the backend is not JAX.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"mesh {mesh!r} needs the JAX backend, and this is "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=jax before Keras is imported."
        )
    sizes = parse_mesh(mesh)
    parts = sizes.get("model", 1)
    if num_query_heads % parts:
        fit = [n for n in range(1, num_query_heads + 1) if num_query_heads % n == 0]
        raise ValueError(
            f"mesh {mesh!r}: model={parts} does not divide the {num_query_heads} query "
            f"heads. model may be one of {', '.join(map(str, fit))}; split the batch "
            "(data, fsdp) over the rest of the devices."
        )
    device_mesh = _device_mesh(mesh, sizes, devices)
    if set(sizes) == {"data"}:
        return keras.distribution.DataParallel(device_mesh=device_mesh)
    batch = next((axis for axis in BATCH_AXES if axis in sizes), None)
    if batch is None:  # Keras wants an axis for the batch: one of size 1
        sizes = {"data": 1, **sizes}
        device_mesh = _device_mesh(mesh, sizes, devices)
        batch = "data"
    layout_map = keras.distribution.LayoutMap(device_mesh)
    model = "model" if "model" in sizes else None
    fsdp = "fsdp" if "fsdp" in sizes else None
    split_heads = num_key_value_heads % parts == 0
    for path, axes in ops.variable_axes(model, fsdp, split_heads).items():
        layout_map[path] = axes
    return _Parallel(layout_map=layout_map, batch_dim_name=batch)


class _Parallel(keras.distribution.ModelParallel):
    """`ModelParallel`, but a dimension that its axis does not divide stays whole.

    Packed int4 kernels have other sizes than float ones, as their scales. Heads are
    checked before; what is whole after all, `describe` shows.
    """

    def get_variable_layout(self, variable):
        layout = super().get_variable_layout(variable)
        if not isinstance(layout, keras.distribution.TensorLayout):
            return layout  # Of a variable with a place; older releases of Keras give JAX's.
        axes, shape = layout.axes, variable.shape
        if len(axes) != len(shape):
            axes = (None,) * len(shape)
        mesh = self.device_mesh
        sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
        kept = tuple(
            axis if axis is not None and dim % sizes[axis] == 0 else None
            for axis, dim in zip(axes, shape, strict=True)
        )
        if kept == layout.axes:
            return layout
        return keras.distribution.TensorLayout(kept, mesh)


def use(mesh, backbone_config, devices=None):
    """Scope in which models are built, loaded and trained on a mesh.

    Args:
        mesh: as of `distribution`; None or `""`: no mesh, an empty scope.
        backbone_config: dict with `num_query_heads` and `num_key_value_heads`, as
            `CodeGemmaBackbone.get_config()` gives it; or a preset.
        devices: as of `distribution`.

    Returns:
        A context manager.

    Raises:
        ValueError, RuntimeError: as `distribution`.
    """
    if not mesh:
        return contextlib.nullcontext()
    if isinstance(backbone_config, str):
        backbone_config = config_of(backbone_config)
    heads = ("num_query_heads", "num_key_value_heads")
    return distribution(
        mesh, **{name: backbone_config[name] for name in heads}, devices=devices
    ).scope()


def config_of(preset) -> dict:
    """Arguments of `CodeGemmaBackbone` of a preset, without loading weights."""
    return presets.Preset(preset).backbone_config()


def check_rows(rows, mesh):
    """Refuse a batch that the mesh cannot split evenly.

    Args:
        rows: int, rows of one step, over all devices.
        mesh: as of `distribution`; None or `""` splits nothing.

    Raises:
        ValueError: the batch axis does not divide `rows`.
    """
    sizes = parse_mesh(mesh) if mesh else {}
    for axis in BATCH_AXES:
        parts = sizes.get(axis, 1)
        if rows % parts:
            raise ValueError(
                f"mesh {mesh!r}: {axis}={parts} does not divide a batch of {rows} rows. "
                f"Take a multiple of {parts} rows, or move devices to 'model'."
            )


def describe(variables) -> list[dict]:
    """How variables lie on the devices.

    Args:
        variables: built Keras variables, for example `lm.variables` or
            `lm.optimizer.variables`.

    Returns:
        A dictionary a variable: `path`, `shape`, `shard` (the shape that one device
        holds), `parts` (how many different shards there are).
    """
    rows = []
    for variable in variables:
        shape = tuple(variable.shape)
        shard = variable.value.sharding.shard_shape(shape)
        parts = math.prod(a // b for a, b in zip(shape, shard, strict=True) if b)
        rows.append(
            {"path": variable.path, "shape": shape, "shard": shard, "parts": parts}
        )
    return rows


def _all_devices():
    """All devices, those of one process beside each other, so that its rows are, too."""
    import jax

    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def _device_mesh(mesh, sizes, devices):
    devices = _all_devices() if devices is None else list(devices)
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"mesh {mesh!r} wants {math.prod(sizes.values())} devices and there "
            f"are {len(devices)}. Its sizes must multiply to that number. (To try it out "
            "on a CPU: XLA_FLAGS=--xla_force_host_platform_device_count=8.)"
        )
    return keras.distribution.DeviceMesh(
        shape=tuple(sizes.values()), axis_names=tuple(sizes), devices=devices
    )
