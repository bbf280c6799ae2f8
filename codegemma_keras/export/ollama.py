"""A folder for `ollama create`: the GGUF file, a Modelfile, the card."""

import os

from codegemma_keras import files, fim
from codegemma_keras.export import card, gguf
from codegemma_keras.export.model import Model

# Ollama sets `.Suffix` only where it is not empty.
_FIM = "<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>"
_PLAIN = "{{ .Prompt }}"
_TURN = """\
<start_of_turn>user
{{ if .System }}{{ .System }}

{{ end }}{{ .Prompt }}<end_of_turn>
<start_of_turn>model
{{ .Response }}<end_of_turn>
"""


def write(model: Model, folder, quantization=None, track=iter):
    """Write the folder, whole or not at all.

    Args:
        model, quantization, track: as of `gguf.write`.
        folder: is made; nothing but an empty folder may stand there.
    """
    if model.chat and model.tokenizer.chat_format != "gemma":
        raise ValueError(
            f"Ollama's turns are written for Gemma's format, and this model has "
            f"{model.tokenizer.chat_format!r}: say chat=False."
        )
    name = os.path.basename(os.path.normpath(os.fspath(folder)))
    file = f"{model.name}.{quantization}.gguf" if quantization else f"{model.name}.gguf"
    with files.new_folder(folder) as new:
        gguf.write(model, os.path.join(new, file), quantization, track)
        with open(os.path.join(new, "Modelfile"), "w", encoding="utf-8") as modelfile:
            modelfile.write(text(file, model))
        card.write(new, model, "ollama", name)


def text(file: str, model: Model) -> str:
    """The Modelfile: a template that knows `.Suffix`, and every stop."""
    stops = [f'PARAMETER stop "{name}"' for name in fim.STOP]
    return "\n".join(
        [
            f"FROM ./{file}",
            f'TEMPLATE """{template(model.chat)}"""',
            *stops,
            "PARAMETER temperature 0",
            "PARAMETER repeat_penalty 1.0",
            f"PARAMETER num_ctx {model.context}",
            "",
        ]
    )


def template(chat: bool) -> str:
    """Ollama's template, in Go's language."""
    rest = _TURN if chat else _PLAIN
    return f"{{{{- if .Suffix }}}}{_FIM}\n{{{{- else }}}}{rest}\n{{{{- end }}}}"
