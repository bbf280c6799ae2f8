"""`codegemma export PRESET OUT --format gguf`: a model for the programs that serve it.

A preset's tensors pass from its files to the new ones, one at a time, so a 7B is written
on a machine that could not hold it. A folder with an adapter becomes an adapter.
"""

import dataclasses
import os
import pathlib
from typing import Annotated, Literal

import tyro

from codegemma_keras import export as exports
from codegemma_keras import files
from codegemma_keras.formats import peft
from codegemma_keras.presets import Preset
from codegemma_keras.tokenizer import CodeGemmaTokenizer


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Write a preset or an adapter in a format that other programs read.

    "transformers" is a folder for Transformers, vLLM, TGI and MLX. "gguf" is a file for
    llama.cpp and LM Studio. "ollama" is a folder for `ollama create`. "peft" is an adapter
    for PEFT and vLLM. Existing files are never overwritten.
    """

    # The model: a name, kaggle://..., hf://... or a folder. Or the folder of an adapter,
    # for `--format gguf` or `peft`.
    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")]
    # The folder to create, or with `--format gguf` the file NAME.gguf.
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    # The format; see above.
    format: Literal["transformers", "gguf", "ollama", "peft"] = "transformers"
    # float32, bfloat16 or float16 for transformers; for gguf and ollama F32, F16, BF16,
    # Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1 or Q4_0. The default is the stored type.
    quantization: str | None = None
    # Folder of an adapter in PEFT's format to merge into the model.
    adapter: str | None = None
    # The name of the model in files and cards. The default is that of the preset.
    name: str | None = None
    # Whether Ollama renders the turns of a chat. By default it does if the name contains
    # "instruct".
    chat: bool | None = None
    # The identifier of the licence, for the model card. The default is that of the preset,
    # if it is known.
    licence: str | None = None
    # The largest size of a safetensors file in GB.
    shard_gb: float = 5.0
    # The model that an adapter belongs to, for PEFT's AutoPeftModel.
    base_model: str | None = None


def export(options: ExportOptions) -> None:
    """Export, and print what was written."""
    folder = pathlib.Path(options.preset).expanduser()
    if (folder / peft.CONFIG_FILE).exists() and not (folder / "config.json").exists():
        _export_adapter(options, folder)
    elif options.format == "peft":
        raise ValueError(
            f"{options.preset} is a whole model, and --format peft writes adapters. Give "
            "the folder of an adapter, which `lora.save` and the recipes write."
        )
    else:
        _export_model(options)
    print(_summary(options.out))


def _export_model(options):
    opened = Preset(options.preset)
    tokenizer = opened.tokenizer(CodeGemmaTokenizer)
    asked = {"name": options.name, "chat": options.chat, "licence": options.licence}
    facts = {"card": opened.card(), "licence": opened.licence}
    facts |= {key: value for key, value in asked.items() if value is not None}
    model = exports.of_preset(opened, tokenizer, options.adapter, **facts)
    exports.write(
        model,
        options.out,
        options.format,
        options.quantization,
        options.shard_gb,
    )


def _export_adapter(options, folder):
    model_options = ("quantization", "adapter", "chat", "licence")
    given = [name for name in model_options if getattr(options, name) is not None]
    if given:
        raise ValueError(
            f"{options.preset} is an adapter; --{given[0]} is an option for models."
        )
    adapter = peft.read(folder)
    if options.format == "gguf":
        exports.gguf.write_adapter(adapter, options.out, options.name or folder.name)
    elif options.format == "peft":
        with files.new_folder(options.out) as new:
            peft.write(new, adapter, options.base_model)
    else:
        raise ValueError(
            f"{options.preset} is an adapter, which --format peft and gguf write. To "
            f"merge it: codegemma export PRESET OUT --adapter {options.preset}."
        )


def _summary(out):
    out = pathlib.Path(out).expanduser()
    written = sorted(out.rglob("*")) if out.is_dir() else [out]
    lines = [f"{os.path.getsize(file) / 1e6:12,.1f} MB  {file}" for file in written]
    return "\n".join(lines)
