"""A folder that Transformers, vLLM, TGI and MLX read: config, weights, vocabulary.

KerasHub's own exporter writes one key/value head and no settings of generation. Here
every head is written, `generation_config.json` holds all the ids that end a completion,
control tokens are marked so that `skip_special_tokens` drops them, and `tokenizer.json`
stands beside `tokenizer.model`, for programs that read only one of them.

Left out: quantized types of other libraries (GPTQ, AWQ), and pickled weights.
"""

import contextlib
import json
import math
import os

from codegemma_keras import files, fim
from codegemma_keras.export import card
from codegemma_keras.export import vocabulary as vocabularies
from codegemma_keras.export.model import Model, check_room
from codegemma_keras.formats import safetensors
from codegemma_keras.formats.chat_templates import CHAT_TEMPLATES
from codegemma_keras.formats.transformers import (
    CONFIG,
    INDEX_FILE,
    TOKENIZER_CONFIG,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    config_json,
    ways,
)

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_JSON = "tokenizer.json"
_NAMES = {"bos_token": fim.START, "eos_token": fim.END, "pad_token": fim.PAD}


def write(model: Model, folder, dtype=None, max_shard_size=5.0, track=iter):
    """Write a whole folder, or nothing.

    Args:
        model: what to write.
        folder: is made; nothing but an empty folder may stand there.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; default: as stored.
        max_shard_size: GB (10^9 bytes) of one file.
        track: function of the iterator of tensors, such as a progress bar.

    Raises:
        FileExistsError: something else stands there. OSError: the disk has no room.
    """
    check_room(folder, _bytes(model, dtype))
    with files.new_folder(folder) as new:
        _fill(model, new, dtype, max_shard_size, track)
        card.write(new, model, "transformers", os.path.basename(os.fspath(folder)))


def update(model: Model, folder, dtype=None, max_shard_size=5.0):
    """As `write`, into a folder whose other files stay; no card is written.

    KerasHub's `export_to_transformers` of a backbone and of a tokenizer may name one
    folder.
    """
    check_room(folder, _bytes(model, dtype))
    with files.updated_folder(folder) as new:
        for name in os.listdir(new) if model.config else ():
            if name.startswith("model") and name.endswith((".safetensors", INDEX_FILE)):
                os.remove(os.path.join(new, name))  # weights of an earlier save
        _fill(model, new, dtype, max_shard_size)


def _bytes(model, dtype):
    itemsize = safetensors.itemsize(dtype or model.dtype)
    if model.config is None:
        return 0
    return model.size(lambda row, shape: math.prod(shape) * itemsize)


def _fill(model, folder, dtype, max_shard_size, track=iter):
    vocabulary = vocabularies.read(model.tokenizer.proto) if model.tokenizer else None
    if model.config is not None:
        write_weights(model, folder, dtype or model.dtype, max_shard_size, track)
        config = config_json(model.config, dtype or model.dtype, model.context)
        generation = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 1}
        if vocabulary is not None:
            generation = _ids(vocabulary)
            config.update(generation)
            generation["eos_token_id"] = vocabulary.stops
        generation = {"_from_model_config": True, "do_sample": False, **generation}
        _write_json(os.path.join(folder, CONFIG), config)
        _write_json(os.path.join(folder, GENERATION_CONFIG), generation)
    if vocabulary is not None:
        chat_format = model.tokenizer.chat_format
        options = {
            "chat_template": CHAT_TEMPLATES[chat_format],
            **ways(chat_format, model.infill_mode or "psm"),
        }
        _write_tokenizer(vocabulary, folder, model.context, options)


def _ids(vocabulary):
    return {f"{name}_id": vocabulary.id(control) for name, control in _NAMES.items()}


def write_weights(model: Model, folder, dtype: str, max_shard_size: float, track=iter):
    """Write the tensors into one or more safetensors files, as they come."""
    itemsize = safetensors.itemsize(dtype)
    shards, size = [{}], 0
    for row in model.rows:
        shape = model.shape(row)
        nbytes = math.prod(shape) * itemsize
        if shards[-1] and size + nbytes > max_shard_size * 1e9:
            shards.append({})
            size = 0
        shards[-1][row.transformers] = shape
        size += nbytes
    names = [WEIGHTS_FILE]
    if len(shards) > 1:
        count = len(shards)
        names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    where = {t: f for f, shard in zip(names, shards, strict=True) for t in shard}
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                safetensors.Writer(os.path.join(folder, name), shard, dtype)
            )
            for name, shard in zip(names, shards, strict=True)
        }
        for row, matrix in track(model.tensors()):
            writers[where[row.transformers]].put(row.transformers, matrix)
    if len(shards) > 1:
        total = model.size(lambda row, shape: math.prod(shape) * itemsize)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        _write_json(os.path.join(folder, INDEX_FILE), index)


def _write_tokenizer(vocabulary, folder, context, options):
    is_json = isinstance(vocabulary, vocabularies.JsonVocabulary)
    for name in (TOKENIZER_FILE, TOKENIZER_JSON):  # one may be another vocabulary's
        files.unlink(os.path.join(folder, name))
    name = TOKENIZER_JSON if is_json else TOKENIZER_FILE
    with open(os.path.join(folder, name), "wb") as file:
        file.write(vocabulary.proto)
    if not is_json:
        _write_json(os.path.join(folder, TOKENIZER_JSON), vocabulary.tokenizer_json())
    names = {name: str(control) for name, control in _NAMES.items()}
    special = [token for token in vocabulary.added_tokens if token["special"]]
    _write_json(
        os.path.join(folder, TOKENIZER_CONFIG),
        {
            "tokenizer_class": "PreTrainedTokenizerFast"
            if is_json
            else "GemmaTokenizer",
            **names,
            **({} if is_json else {"unk_token": vocabulary.unknown}),
            "add_bos_token": True,
            "add_eos_token": False,
            "additional_special_tokens": [
                token["content"]
                for token in special
                if token["content"] not in (*names.values(), vocabulary.unknown)
            ],
            # Transformers 5 rebuilds a GemmaTokenizer: of tokenizer.json it takes
            # pieces and merges, and the tokens found in text from here.
            "added_tokens_decoder": {
                str(token["id"]): {k: v for k, v in token.items() if k != "id"}
                for token in vocabulary.added_tokens
            },
            **options,
            "clean_up_tokenization_spaces": False,
            "model_max_length": context,
            "use_default_system_prompt": False,
        },
    )


def _write_json(path, value):
    files.unlink(path)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
