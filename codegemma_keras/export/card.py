"""The model card, README.md of an exported folder: licence, origin, how to serve it.

How a model was trained only its own card knows: its text is taken over, below a head that
hubs read.
"""

import os
import re

from codegemma_keras.export.model import Model, parameters

_LICENCES = {
    "https://www.apache.org/licenses/LICENSE-2.0": "apache-2.0",
    "https://www.kaggle.com/models/keras/codegemma": "gemma",
}
_USE = {
    "transformers": """\
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("{folder}")
    model = AutoModelForCausalLM.from_pretrained("{folder}")
    prompt = "<|fim_prefix|>def add(a, b):\\n    return <|fim_suffix|>\\n<|fim_middle|>"
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=32)
    print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
""",
    "ollama": """\
    ollama create {folder} -f {folder}/Modelfile
""",
}


def write(folder, model: Model, kind: str, name: str):
    """Write README.md into a folder.

    Args:
        folder: that is being exported.
        model: what is in it.
        kind: "transformers" or "ollama".
        name: of the folder, for the example.
    """
    licence = _LICENCES.get(model.licence, model.licence)
    known = licence in _LICENCES.values()
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    head += [f"license: {licence if known else 'other'}", "tags: [code, codegemma]"]
    text = [
        *head,
        "---",
        "",
        f"# {model.name}",
        "",
        f"{parameters(model) / 1e6:,.1f} M parameters, context {model.context} tokens. "
        "Exported by codegemma_keras."
        + (" An adapter is merged in." if model.adapter else ""),
        "",
        f"Licence: {model.licence or 'not known to the exporter: state it here'}.",
        "",
        _USE[kind].format(folder=name),
        model.card and _without_head(model.card),
    ]
    if not model.card:
        text[-1] = (
            "How the model was trained is not known to the exporter: state it here."
        )
    path = os.path.join(folder, "README.md")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(text).rstrip() + "\n")


def _without_head(text):
    """A card without its YAML head."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
