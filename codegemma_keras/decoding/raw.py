"""`generate`: raw prompts and batches in KerasHub's meaning, over the engine.

Raw: a control string in a prompt becomes the control token. Text that a user wrote goes
through `request`, in which it cannot.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from codegemma_keras.decoding.request import seeds
from codegemma_keras.decoding.sampling import Sampling
from codegemma_keras.decoding.stopping import Stops
from codegemma_keras.decoding.text import GrowingText, Watch, pieces

NO_WATCH = Watch()


@dataclasses.dataclass(frozen=True)
class How:
    """How a batch is continued; as the arguments of `CodeGemmaCausalLM.generate`."""

    stop_token_ids: Sequence[int]
    sampling: Sampling
    seed: int | None = None
    speculate: Any = False
    strip_prompt: bool = False


def texts(lm, prompts, limits, how: How, stop_strings=(), watch=NO_WATCH):
    """The new text after each prompt (token ids)."""
    run = lm.engine.start(
        prompts,
        limits,
        how.stop_token_ids,
        how.sampling,
        seeds(how.seed, len(prompts)),
        how.speculate,
    )
    ends = Stops(stop_strings)
    grown = [GrowingText(lm.tokenizer, ends) for _ in prompts]
    for _ in pieces(run, grown, watch, bool(ends)):
        pass
    return [new.text for new in grown]


def generate(lm, inputs, how: How, max_length, max_new_tokens, stop_strings):
    """`generate` of a string, of strings, or of a `tf.data.Dataset` of batches."""
    if hasattr(inputs, "as_numpy_iterator"):
        batches = [[t.decode() for t in b] for b in inputs.as_numpy_iterator()]
        inputs = [text for batch in batches for text in batch]
    given = [inputs] if isinstance(inputs, str) else [str(text) for text in inputs]
    prompts = [prompt(lm, text) for text in given]
    limits = [new_tokens(lm, len(p), max_length, max_new_tokens) for p in prompts]
    new = texts(lm, prompts, limits, how, stop_strings)
    if not how.strip_prompt:
        new = [text + after for text, after in zip(given, new, strict=True)]
    return new[0] if isinstance(inputs, str) else new


def generate_ids(lm, inputs, how: How):
    """`generate` of `{"token_ids", "padding_mask"}`, each `[B, max_length]`."""
    token_ids = np.array(ops.convert_to_numpy(inputs["token_ids"]))
    mask = ops.convert_to_numpy(inputs["padding_mask"]).astype(bool)
    lengths = mask.sum(axis=1)
    prompts = [row[:n].tolist() for row, n in zip(token_ids, lengths, strict=True)]
    width = token_ids.shape[1]
    results = lm.engine.generate(
        prompts,
        width - lengths,
        how.stop_token_ids,
        how.sampling,
        seeds(how.seed, len(prompts)),
        how.speculate,
    )
    out_ids = np.zeros_like(token_ids)
    out_mask = np.zeros_like(mask)
    for i, (given, result) in enumerate(zip(prompts, results, strict=True)):
        new = list(result.token_ids)
        if result.stop_token is not None:
            new.append(result.stop_token)
        row = new if how.strip_prompt else (given + new)
        row = row[: width - (len(given) if how.strip_prompt else 0)]
        out_ids[i, : len(row)] = row
        out_mask[i, : len(row)] = True
    return {"token_ids": out_ids, "padding_mask": out_mask}


def prompt(lm, text):
    """Token ids of a raw prompt, with bos."""
    ids = [int(t) for t in lm.tokenizer.tokenize(text)]
    if lm.preprocessor.add_start_token:
        ids.insert(0, lm.tokenizer.start_token_id)
    return ids


def stop_token_ids(lm, given):
    """Ids of `"auto"`, None or a sequence."""
    if given is None:
        return ()
    if isinstance(given, str):
        if given != "auto":
            raise ValueError(f"stop_token_ids={given!r}: give 'auto', None or ids.")
        return lm.tokenizer.stop_token_ids
    return tuple(int(t) for t in given)


def new_tokens(lm, prompt_length, max_length, max_new_tokens):
    """How many tokens a prompt of `prompt_length` may grow by."""
    limit = max_length or lm.preprocessor.sequence_length
    if prompt_length > limit:
        raise ValueError(
            f"The prompt has {prompt_length} tokens, but the limit is {limit} (prompt "
            "and new tokens together). Shorten it; infill() cuts the text around the "
            "cursor to fit by itself, and `fim.shrink` does it for prompts of your "
            "own. If the model was trained on longer text, raise "
            "`lm.preprocessor.sequence_length`."
        )
    room = limit - prompt_length
    return room if max_new_tokens is None else min(room, max_new_tokens)
