"""Models out of the house: Transformers, GGUF, PEFT, Ollama.

    lm.export("codegemma-mine", format="transformers")
    lm.export("codegemma-mine.gguf", format="gguf", quantization="Q8_0")
    codegemma export PRESET codegemma-mine.gguf --format gguf --quantization Q8_0

What is written is what the model computes: an active or merged adapter is in the
matrices, and a quantized layer gives what its integers stand for. Tensors pass one at a
time. A folder or a file is there whole or not at all, and nothing is overwritten.

`model` is what all formats write; `transformers`, `gguf` and `ollama` write it.
`formats.peft` writes adapters.
"""

from codegemma_keras import adapters, bars, files
from codegemma_keras.export import gguf, ollama, transformers
from codegemma_keras.export.model import Model, of_backbone, of_preset, of_task
from codegemma_keras.formats import peft

FORMATS = ("transformers", "gguf", "ollama")
DTYPES = ("float32", "bfloat16", "float16")

__all__ = [
    "DTYPES",
    "FORMATS",
    "Model",
    "of_backbone",
    "of_preset",
    "of_task",
    "write",
    "write_task",
]


def write_task(task, path, format, quantization=None, verbose=True, **facts):
    """What `CodeGemmaCausalLM.export` does.

    Args:
        task: a `CodeGemmaCausalLM`.
        path, format, quantization, verbose: as of `write`; or the format `"peft"`, which
            writes the active adapter alone.
        **facts: `chat`, whether Ollama shall render turns (default: whether the name says
            "instruct" or "-it"); `card`, the text of the model's card in Markdown;
            `licence`, its identifier.

    Examples:
        >>> write_task(lm, "codegemma-mine", "transformers", verbose=False)
        >>> import os
        >>> "model.safetensors" in os.listdir("codegemma-mine")
        True
    """
    if format != "peft":
        facts = {name: value for name, value in facts.items() if value is not None}
        write(of_task(task, **facts), path, format, quantization, verbose=verbose)
        return
    name = task.backbone.active_adapter
    if name is None or quantization is not None or facts:
        raise ValueError(
            "format='peft' writes the active adapter alone, in float32 and with no other "
            f"options. Active is {name!r} of {list(task.backbone.adapters)}; "
            "`lora.select` chooses one."
        )
    with files.new_folder(path) as new:
        adapter = adapters.as_peft(task.backbone, name)
        peft.write(new, adapter, task.backbone.transformers_name)


def write(
    model: Model,
    path,
    format="transformers",
    quantization=None,
    max_shard_size=5.0,
    verbose=True,
):
    """Write a model.

    Args:
        model: what to write.
        path: a folder that is not there yet, or for `"gguf"` a file.
        format: one of `FORMATS`.
        quantization: for `"transformers"` a dtype of `DTYPES`, for the others a type of
            `quantization.TYPES`; default: as the weights are stored.
        max_shard_size: of `"transformers"`, GB (10^9 bytes) of one file.
        verbose: show the progress on stderr.

    Raises:
        ValueError: an option that the format does not have. FileExistsError: something
            stands there already. OSError: the disk has no room.

    Examples:
        >>> from codegemma_keras.presets import Preset
        >>> opened = Preset("code_gemma_tiny_py")
        >>> model = of_preset(opened, opened.tokenizer(CodeGemmaTokenizer))
        >>> write(model, "tiny.gguf", "gguf", "F16", verbose=False)
        >>> write(model, "tiny.gguf", "gguf", "F16", verbose=False)
        Traceback (most recent call last):
        FileExistsError: tiny.gguf is there already, and it is not overwritten. Name a
        new file, or remove this one first.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: there are {', '.join(FORMATS)}.")
    track = progress(model) if verbose else iter
    if format == "transformers":
        if quantization not in (None, *DTYPES):
            raise ValueError(
                f"quantization={quantization!r}: a Transformers folder is written as one "
                f"of {', '.join(DTYPES)}. Quantized types are GGUF's (format='gguf')."
            )
        transformers.write(model, path, quantization, max_shard_size, track)
        return
    module = {"gguf": gguf, "ollama": ollama}[format]
    module.write(model, path, quantization, track)


def progress(model: Model):
    """A function that shows how many tensors of an iterator were read."""

    def tracked(tensors):
        with bars.shown() as show:
            show("Tensors", 0, len(model.rows))
            for done, tensor in enumerate(tensors, 1):
                yield tensor
                show("Tensors", done, len(model.rows))

    return tracked
