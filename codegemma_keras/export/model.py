"""`Model`: what is exported, as other programs see it: sizes, matrices, vocabulary.

The matrices are a stream, one at a time, in Transformers' layout (which is llama.cpp's
too), with an adapter merged in and integers of a quantized layer multiplied out. So what
is written is what the model computes, and no second copy of the model exists. They come
from a network in memory, or straight from the files of a preset.

Left out: adapters by themselves (`formats.peft`, `export.gguf.write_adapter`).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
from keras import ops

from codegemma_keras import adapters, files
from codegemma_keras.formats import peft, weights

CONTEXT = 8192  # what CodeGemma was trained at
# Of a network whose config does not say: KerasHub has them in its code.
_CONSTANTS = {"rope_max_wavelength": 10_000.0, "layer_norm_epsilon": 1e-6}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to export; every part but its sizes may be missing.

    Attributes:
        config: arguments of `CodeGemmaBackbone`; None for a tokenizer alone.
        dtype: what the weights are stored at: `"float32"`, `"bfloat16"`, `"float16"`.
        stream: `() -> iterator of (path of the variable, value in its shape)`.
        tokenizer: a `CodeGemmaTokenizer`, or None.
        context: tokens that the model is made for.
        name: of the preset, where it is known.
        chat: whether it answers in turns.
        infill_mode: how it is asked to fill in, as of its preprocessor; None: PSM.
        card: text of the model's own card in Markdown, or None.
        licence: its identifier or name, or None.
        adapter: an adapter to merge in, or None.
        adapter_folder: where it is from; None: the model's own.

    Examples:
        >>> model = of_backbone(lm.backbone)
        >>> row, matrix = next(model.tensors())
        >>> row.transformers, matrix.shape == model.shape(row)
        ('model.embed_tokens.weight', True)
    """

    config: dict | None
    dtype: str = "float32"
    stream: Callable[[], Iterator[tuple[str, np.ndarray]]] = tuple
    tokenizer: object = None
    context: int = CONTEXT
    name: str = "codegemma"
    chat: bool = False
    infill_mode: str | None = None
    card: str | None = None
    licence: str | None = None
    adapter: peft.Adapter | None = None
    adapter_folder: str | None = None

    @property
    def rows(self) -> list[weights.Row]:
        """The name table, in the order of files."""
        return weights.table(self.config["num_layers"])

    def shape(self, row: weights.Row) -> tuple[int, ...]:
        """Shape of a matrix in Transformers' layout."""
        return weights.transformers_shape(
            row.layout, weights.shape_of(row, self.config)
        )

    def size(self, bytes_of: Callable) -> int:
        """Bytes of all tensors; `bytes_of(row, shape)` says those of one."""
        return sum(bytes_of(row, self.shape(row)) for row in self.rows)

    def tensors(self) -> Iterator[tuple[weights.Row, np.ndarray]]:
        """Each tensor once, in Transformers' layout, in the order of the stream."""
        rows = {row.keras: row for row in self.rows}
        for path, value in self.stream():
            row = rows.pop(path)
            yield row, self._merged(row, weights.to_transformers(value, row.layout))
        if rows:
            raise ValueError(f"The model has no value for {min(rows)}.")

    def _merged(self, row, matrix):
        """The matrix, what the adapter adds to it included."""
        if self.adapter is None:
            return matrix
        if row.axes == "VD" and self.adapter.rows is not None:
            ids, values = self.adapter.rows
            matrix = np.array(matrix)
            matrix[list(ids)] = values.astype(matrix.dtype)
            return matrix
        path = row.transformers.removesuffix(".weight")
        if path not in self.adapter.pairs:
            return matrix
        if self.adapter_folder is not None:
            adapters.check_base_matrix(
                self.adapter.base,
                path,
                matrix,
                self.config["num_layers"],
                self.adapter_folder,
            )
        a, b = (each.astype("float32") for each in self.adapter.pairs[path])
        return matrix.astype("float32") + self.adapter.scales[path] * (b @ a)


def of_backbone(backbone, tokenizer=None, **facts) -> Model:
    """What a network in memory computes, its active adapter included.

    Args:
        backbone: a `CodeGemmaBackbone` or KerasHub's `GemmaBackbone`.
        tokenizer: a `CodeGemmaTokenizer`, or None.
        **facts: fields of `Model`.

    Examples:
        >>> of_backbone(lm.backbone, name="mine").name
        'mine'
    """
    active = getattr(backbone, "active_adapter", None)
    adapter = adapters.as_peft(backbone, active) if active else None
    config = backbone.get_config()
    rows = weights.table(config["num_layers"])
    layers = {row.keras: weights.layer_of(backbone, row) for row in rows}
    quantized = any(layer.quantization_mode for layer in layers.values())
    dtype = backbone.dtype_policy.variable_dtype

    def stream():
        for row in rows:
            yield row.keras, _value(layers[row.keras], row, config)

    facts.setdefault("name", last_name(getattr(backbone, "transformers_name", None)))
    facts.setdefault("chat", answers(facts["name"]))
    return Model(
        config={**_CONSTANTS, **config},
        # What integers stand for is known to a few digits.
        dtype="bfloat16" if quantized and dtype == "float32" else dtype,
        stream=stream,
        tokenizer=tokenizer,
        adapter=adapter,
        **facts,
    )


def of_task(task, **facts) -> Model:
    """As `of_backbone`, of a `CodeGemmaCausalLM` with its tokenizer and context.

    Examples:
        >>> of_task(lm).context == lm.preprocessor.sequence_length
        True
    """
    if task.preprocessor is None:
        return of_backbone(task.backbone, **facts)
    facts.setdefault("context", task.preprocessor.sequence_length)
    # KerasHub's own preprocessors have none.
    facts.setdefault("infill_mode", getattr(task.preprocessor, "infill_mode", None))
    return of_backbone(task.backbone, task.tokenizer, **facts)


def last_name(name) -> str:
    """The last part of a preset's or folder's name."""
    return name.rstrip("/").rpartition("/")[2] if name else "codegemma"


def answers(name: str) -> bool:
    """Whether a model of this name was taught to answer in turns."""
    return "instruct" in name or name.endswith("-it")


def _value(layer, row, config):
    """A variable's value in its float shape."""
    if layer.quantization_mode:
        return _dequantized(layer, weights.shape_of(row, config), row)
    # The layer's property, not the variable: Keras's own LoRA is merged in it.
    return ops.convert_to_numpy(getattr(layer, row.keras.rsplit("/", 1)[1]))


def _dequantized(layer, shape, row):
    """What the integers of a layer stand for: its outputs for unit vectors."""
    if row.axes == "VD":
        ids = np.arange(shape[0], dtype="int32")
        return ops.convert_to_numpy(ops.cast(layer.vectors(ids), "float32"))
    return weights.from_transformers(layer.matrix(), row.layout, shape)


def of_preset(opened, tokenizer=None, adapter=None, **facts) -> Model:
    """A preset's files, streamed: the network is never in memory.

    Args:
        opened: a `presets.Preset`.
        tokenizer: its `CodeGemmaTokenizer`, or None.
        adapter: folder of an adapter in PEFT's format to merge in, or None.
        **facts: fields of `Model`.

    Examples:
        >>> from codegemma_keras.presets import Preset
        >>> of_preset(Preset("code_gemma_tiny_py")).config["num_layers"]
        5
    """
    config, checkpoint = opened.checkpoint()
    merged = None
    if adapter is not None:
        merged = peft.read(adapter)
        check_shapes(merged, config, adapter)
    facts.setdefault("name", last_name(opened.name.removesuffix(".gguf")))
    facts.setdefault("chat", answers(facts["name"]))
    facts.setdefault("context", opened.context() or CONTEXT)
    facts.setdefault("infill_mode", opened.infill_mode())
    return Model(
        config={**_CONSTANTS, **config},
        dtype=checkpoint.dtype,
        stream=lambda: checkpoint.stream(None),
        tokenizer=tokenizer,
        adapter=merged,
        adapter_folder=adapter,
        **facts,
    )


def check_shapes(adapter: peft.Adapter, config: dict, folder):
    """Refuse an adapter whose matrices are not of this network.

    Raises:
        ValueError: a layer that is not there, or another shape.
    """
    shapes = {
        row.transformers.removesuffix(".weight"): weights.transformers_shape(
            row.layout, weights.shape_of(row, config)
        )
        for row in weights.table(config["num_layers"])
    }
    for path, (a, b) in adapter.pairs.items():
        if path not in shapes or (b.shape[0], a.shape[1]) != shapes[path]:
            raise ValueError(
                f"The adapter in {folder} changes {path} by a matrix of "
                f"{(b.shape[0], a.shape[1])}; this model has "
                f"{shapes.get(path, 'no such layer')}. The adapter is for another model."
            )
    if adapter.rows and adapter.rows[1].shape[1:] != (config["hidden_dim"],):
        raise ValueError(
            f"The adapter in {folder} has rows of {adapter.rows[1].shape[1:]} numbers; "
            f"this model's embedding is {config['hidden_dim']} wide. The adapter is for "
            "another model."
        )


def check_room(path, nbytes: int):
    """Refuse to begin what the disk has no room for.

    Raises:
        OSError: so many bytes are not free where `path` shall be.
    """
    free = files.free_bytes(path)
    if nbytes > free:
        raise OSError(
            f"{path} needs {nbytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free on "
            "its disk. Make room, name a place on another disk, or ask for a smaller "
            "type (quantization='Q8_0' is half of bfloat16)."
        )


def parameters(model: Model) -> int:
    """Numbers in all tensors."""
    return model.size(lambda row, shape: math.prod(shape))
