"""`generate` in KerasHub's meaning: whatever it takes as inputs, and the same back.

Strings, bytes, string arrays and tensors, `tf.data` of these; and token ids as
dictionaries or `tf.data` of dictionaries. Prompts are *raw*: a control string in them
becomes the control token.
"""

from collections.abc import Mapping

import numpy as np
from keras import ops

from codegemma_keras.decoding import answering
from codegemma_keras.decoding.completion import GrowingText
from codegemma_keras.decoding.request import RawText, Request, whole_number
from codegemma_keras.decoding.sampling import seeds
from codegemma_keras.decoding.stops import Stops


def generate(
    lm, inputs, request: Request, max_length=None, strip_prompt=False, sampler=None
):
    """Continue every prompt of `inputs`.

    Args:
        lm: a `CodeGemmaCausalLM`.
        inputs: see above.
        request: the options for every prompt; its own prompt is not used.
        max_length: int, of prompt and new tokens together.
        strip_prompt: bool. Return the new text or ids only.
        sampler: None, or a function of one batch dictionary that continues its ids: a
            KerasHub sampler's own loop.
    """
    if max_length is not None:
        max_length = whole_number("max_length", max_length)
    if hasattr(inputs, "as_numpy_iterator"):
        inputs = list(inputs.as_numpy_iterator())
        if inputs and isinstance(inputs[0], Mapping):
            parts = [
                _of_ids(lm, part, request, max_length, strip_prompt, sampler)
                for part in inputs
            ]
            return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
        inputs = [text for part in inputs for text in np.atleast_1d(part)]
    if isinstance(inputs, Mapping):
        return _of_ids(lm, inputs, request, max_length, strip_prompt, sampler)
    texts, one = as_texts(inputs)
    new = _of_texts(lm, texts, request, max_length, sampler)
    if not strip_prompt:
        new = [text + after for text, after in zip(texts, new, strict=True)]
    return new[0] if one else new


def as_texts(inputs) -> tuple[list[str], bool]:
    """Prompts as strings, and whether one was given rather than several.

    Raises:
        TypeError: something that is no text.
        ValueError: bytes that are not UTF-8.
    """
    if hasattr(inputs, "numpy"):  # a tensor of strings
        inputs = inputs.numpy()
    if isinstance(inputs, np.ndarray):
        inputs = inputs.tolist() if inputs.ndim else inputs.item()
    if isinstance(inputs, (str, bytes)):
        return [_text(inputs)], True
    if inputs is None or not hasattr(inputs, "__iter__"):
        raise TypeError(
            f"generate() takes text, a list of texts, a tf.data.Dataset, or a dictionary "
            f"of token_ids and padding_mask, not {inputs!r:.80}."
        )
    return [_text(item) for item in inputs], False


def _text(item):
    if hasattr(item, "numpy"):
        item = item.numpy()
    if isinstance(item, np.ndarray) and item.ndim == 0:
        item = item.item()
    if isinstance(item, bytes):
        try:
            return item.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"A prompt holds bytes that are not UTF-8 (at byte {error.start}): "
                f"{item!r:.80}. Decode it first, with the encoding that it has."
            ) from None
    if not isinstance(item, str):
        raise TypeError(f"A prompt must be text, not {item!r:.80}.")
    return str(item)


def _of_texts(lm, texts, request, max_length, sampler):
    prompts = [answering.prompt_ids(lm, RawText(text)) for text in texts]
    limits = [
        answering.room(lm, len(ids), max_length, request.max_new_tokens)
        for ids in prompts
    ]
    if sampler is None:
        return [c.text for c in answering.complete_each(lm, prompts, limits, request)]
    width = max((len(p) + n for p, n in zip(prompts, limits, strict=True)), default=0)
    ids = np.zeros((len(prompts), width), "int32")
    mask = np.zeros((len(prompts), width), bool)
    for row, known, prompt in zip(ids, mask, prompts, strict=True):
        row[: len(prompt)], known[: len(prompt)] = prompt, True
    new = _by_sampler(sampler, ids, mask, request, lm) if prompts else []
    new = [tokens[:n] for tokens, n in zip(new, limits, strict=True)]
    return [_cut(lm, tokens, request)[1] for tokens in new]


def _of_ids(lm, inputs, request, max_length, strip_prompt, sampler):
    """`{"token_ids", "padding_mask"}`, each `[B, T]` or `[T]`; T is the longest result."""
    for key in ("token_ids", "padding_mask"):
        if key not in inputs:
            raise ValueError(
                f"inputs has {sorted(map(str, inputs))}, but token ids come as "
                "{'token_ids': ..., 'padding_mask': ...}."
            )
    token_ids = np.array(ops.convert_to_numpy(inputs["token_ids"]))
    mask = np.array(ops.convert_to_numpy(inputs["padding_mask"])).astype(bool)
    one = token_ids.ndim == 1
    token_ids, mask = np.atleast_2d(token_ids), np.atleast_2d(mask)
    if token_ids.shape != mask.shape or token_ids.ndim != 2:
        raise ValueError(
            f"token_ids {token_ids.shape} and padding_mask {mask.shape} must have one "
            "shape, [rows, tokens]."
        )
    width = token_ids.shape[1]
    if max_length is not None and max_length > width:
        raise ValueError(
            f"max_length={max_length}, but token_ids have room for {width}. Pad them to "
            "the length that you want."
        )
    prompts = [_prompt(ids, known) for ids, known in zip(token_ids, mask, strict=True)]
    limits = []
    for prompt in prompts:
        lm.engine.check_ids(prompt, len(limits))
        limits.append(
            answering.room(lm, len(prompt), max_length or width, request.max_new_tokens)
        )
    new = _new_ids(lm, prompts, limits, request, token_ids, mask, sampler)
    out_ids, out_mask = np.zeros_like(token_ids), np.zeros_like(mask)
    for number, (prompt, tokens) in enumerate(zip(prompts, new, strict=True)):
        row = list(tokens) if strip_prompt else [*prompt, *tokens]
        out_ids[number, : len(row)] = row
        out_mask[number, : len(row)] = True
    out = {"token_ids": out_ids, "padding_mask": out_mask}
    return {key: value[0] for key, value in out.items()} if one else out


def _prompt(ids, known):
    """The prompt of a row, padded on either side."""
    places = np.flatnonzero(known)
    if len(places) and places[-1] - places[0] + 1 != len(places):
        raise ValueError(
            f"padding_mask has a hole: tokens at {places[:5].tolist()}... Put padding "
            "before or after the prompt, not inside it."
        )
    return ids[places].tolist()


def _new_ids(lm, prompts, limits, request, token_ids, mask, sampler):
    """The new ids of each prompt, a stop token included."""
    if request.stop_strings and lm.preprocessor is None:
        raise ValueError(
            "stop_strings need a tokenizer, and this model has no preprocessor. Use "
            "stop_token_ids, or set `lm.preprocessor`."
        )
    if sampler is not None:
        left = np.zeros_like(token_ids), np.zeros_like(mask)
        for row, known, prompt in zip(*left, prompts, strict=True):
            row[: len(prompt)], known[: len(prompt)] = prompt, True
        new = _by_sampler(sampler, *left, request, lm)
        new = [tokens[:n] for tokens, n in zip(new, limits, strict=True)]
        return [_cut(lm, tokens, request)[0] for tokens in new]
    sampling = answering.sampling_of(lm, request.sampling)
    results = lm.engine.generate(
        prompts,
        limits,
        stop_ids(lm, request),
        sampling,
        seeds(request.seed, len(prompts), None if request.sampling else lm.sampler),
        request.speculate,
    )
    ends = [[] if r.stop_token is None else [r.stop_token] for r in results]
    new = [r.token_ids + end for r, end in zip(results, ends, strict=True)]
    return [_cut(lm, tokens, request)[0] for tokens in new]


def stop_ids(lm, request) -> tuple[int, ...]:
    """The stop ids of a request, `"auto"` looked up."""
    if request.stop_token_ids == "auto":
        return tuple(lm.tokenizer.stop_token_ids)
    return request.stop_token_ids


def _cut(lm, tokens, request):
    """Tokens and text up to the first stop string; a stop token is no text."""
    tokens = list(tokens)
    text_ids = tokens[:-1] if tokens and tokens[-1] in stop_ids(lm, request) else tokens
    if not request.stop_strings:
        text = lm.tokenizer.decode(text_ids) if lm.preprocessor is not None else ""
        return tokens, text
    growing = GrowingText(lm.tokenizer, Stops(request.stop_strings))
    for count, token in enumerate(text_ids):
        growing.push([token])
        if growing.stop_reason is not None:
            return tokens[: count + 1], growing.text
    growing.finish()
    return tokens, growing.text


def _by_sampler(sampler, token_ids, mask, request, lm):
    """New ids of each row by a sampler's own loop, up to and with a stop token."""
    for name, value in (("seed", request.seed), ("speculate", request.speculate)):
        if value not in (None, False):
            raise ValueError(
                f"{type(lm.sampler).__name__} draws and looks ahead by itself, so "
                f"{name}={value!r} would have no effect. Leave it out, give the sampler "
                "a seed of its own, or pass `sampling=Sampling(...)`."
            )
    out = sampler({"token_ids": token_ids, "padding_mask": mask})
    found = np.asarray(ops.convert_to_numpy(out["token_ids"]))
    valid = np.asarray(ops.convert_to_numpy(out["padding_mask"])).astype(bool)
    stops = set(stop_ids(lm, request))
    result = []
    for ids, known, length in zip(found, valid, mask.sum(axis=1), strict=True):
        new = ids[length:][known[length:]].tolist()
        end = next((i + 1 for i, token in enumerate(new) if token in stops), len(new))
        result.append(new[:end])
    return result
