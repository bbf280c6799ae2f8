"""Text to model inputs: plain, fill-in-the-middle, and chat.

Each turns text into `(x, y, sample_weight)` for `fit()`: x is `{"token_ids",
"padding_mask"}`, y the next token, sample_weight 1 where y counts, each `[B, T]`.
Only control tokens written by `fim.render` and `chat.render` are control tokens; the
plain preprocessor alone keeps KerasHub's meaning, in which a control string in the text
becomes the token.

Left out: packing of several documents into a row; `codegemma_keras.data` does that.
"""

import hashlib

import keras
import keras_hub
import numpy as np
from keras_hub.src.utils.python_utils import classproperty

from codegemma_keras import chat, fim, presets
from codegemma_keras.backbone import CodeGemmaBackbone
from codegemma_keras.formats.keras_hub import save_preprocessor
from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer

# KerasHub finds the classes of a preset by their backbone; the tokenizer's own module
# knows no network.
CodeGemmaTokenizer.backbone_cls = CodeGemmaBackbone


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaCausalLMPreprocessor(keras_hub.models.CausalLMPreprocessor):
    """Raw text for `fit()` and `generate()`, as KerasHub's Gemma preprocessor.

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        sequence_length: int. T: rows are padded or cut to it, and no prompt may be
            longer.
        add_start_token: bool. Prepend bos; CodeGemma needs it.
        add_end_token: bool. Append eos in training.
    """

    backbone_cls = CodeGemmaBackbone
    tokenizer_cls = CodeGemmaTokenizer

    @classproperty
    def presets(cls):
        """Presets that `from_preset` knows by name, as in KerasHub."""
        return presets.listing()

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """Load the preprocessor of a preset; see `CodeGemmaCausalLM.from_preset`."""
        return presets.Preset(preset).preprocessor(cls, **kwargs)

    def save_to_preset(self, preset_dir):
        """Save configuration and vocabulary into a preset folder."""
        save_preprocessor(self, preset_dir)


def pack_rows(rows, weights, sequence_length, pad_token_id):
    """Token rows to `(x, y, sample_weight)`.

    Args:
        rows: B lists of token ids, bos first.
        weights: B lists, the weight of each token as a target; same lengths.
        sequence_length: T. Longer rows are cut at the end.
        pad_token_id: int.

    Returns:
        x `{"token_ids", "padding_mask"}`, y int32, sample_weight float32: `[B, T]`.
    """
    shape = (len(rows), sequence_length + 1)
    ids = np.full(shape, pad_token_id, "int32")
    weight = np.zeros(shape, "float32")
    mask = np.zeros(shape, "int32")
    for i, (row, row_weights) in enumerate(zip(rows, weights, strict=True)):
        row = row[: sequence_length + 1]
        ids[i, : len(row)] = row
        weight[i, : len(row)] = row_weights[: len(row)]
        mask[i, : len(row)] = 1
    x = {"token_ids": ids[:, :-1], "padding_mask": mask[:, :-1]}
    return x, ids[:, 1:], weight[:, 1:]


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaFIMPreprocessor(CodeGemmaCausalLMPreprocessor):
    """Whole files to fill-in-the-middle training rows.

    A file that is too long is cut before it is split, so the middle and the token that
    ends it are always there: a model that never sees the end never learns to stop.

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        sequence_length: int. T.
        fim_rate: share of files that are split; the rest stay left-to-right.
        spm_rate: share of the split files rendered suffix first.
        span_lengths: `"uniform"`, `"log_uniform"` or `"lines"`; see `fim.random_split`.
        middle_only: bool. Loss on the middle and its end only; the default, loss on all
            parts, is what keeps the left-to-right skill.
        seed: int. With the text itself it decides every random choice, so a file is
            split alike in whatever order files come.

    Call arguments: x, a list of texts, or of `(path, text)` pairs.
    """

    def __init__(
        self,
        tokenizer,
        sequence_length=1024,
        fim_rate=0.9,
        spm_rate=0.5,
        span_lengths="uniform",
        middle_only=False,
        seed=0,
        **kwargs,
    ):
        super().__init__(tokenizer, sequence_length=sequence_length, **kwargs)
        for name, rate in (("fim_rate", fim_rate), ("spm_rate", spm_rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"{name}={rate} must be between 0 and 1.")
        self.fim_rate = fim_rate
        self.spm_rate = spm_rate
        self.span_lengths = span_lengths
        self.middle_only = middle_only
        self.seed = seed

    def call(self, x, y=None, sample_weight=None, sequence_length=None):
        length = sequence_length or self.sequence_length
        single = isinstance(x, str)
        items = [x] if single else list(x)
        rows, weights = [], []
        for item in items:
            path, text = (None, item) if isinstance(item, str) else item
            row, weight = self.row(text, path, length)
            rows.append(row)
            weights.append(weight)
        return pack_rows(rows, weights, length, self.tokenizer.pad_token_id)

    def row(self, text, path=None, length=None):
        """One file as `(token ids, target weights)`, bos first, eos last."""
        length = length or self.sequence_length
        tokenizer = self.tokenizer
        digest = hashlib.blake2b(
            f"{self.seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8
        )
        rng = np.random.default_rng(int.from_bytes(digest.digest(), "big"))
        split = rng.random() < self.fim_rate
        mode = "spm" if rng.random() < self.spm_rate else "psm"
        keep = len(text)
        while True:
            piece = text[:keep]
            if split:
                prefix, middle, suffix = fim.random_split(piece, rng, self.span_lengths)
                parts = fim.render(prefix, suffix, middle, path=path, mode=mode)
            else:
                parts = fim.render_plain(piece, path)
            encoded = [tokenizer.encode([part]) for part in parts]
            ids = [tokenizer.start_token_id]
            weight = [0.0]
            in_middle = not (self.middle_only and split)
            for part, part_ids in zip(parts, encoded, strict=True):
                ids += part_ids
                weight += [float(in_middle)] * len(part_ids)
                in_middle = in_middle or part == fim.MIDDLE
            ids.append(tokenizer.end_token_id)
            weight.append(1.0)
            if len(ids) <= length + 1 or not keep:
                return ids, weight
            keep = min(keep - 1, int(keep * (length - 8) / len(ids)))

    def get_config(self):
        return {
            **super().get_config(),
            "fim_rate": self.fim_rate,
            "spm_rate": self.spm_rate,
            "span_lengths": self.span_lengths,
            "middle_only": self.middle_only,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaChatPreprocessor(CodeGemmaCausalLMPreprocessor):
    """Conversations to training rows with loss on the answers only.

    Call arguments: x, a list of conversations, each a list of
    `{"role": "user" | "model", "content": str}`.
    """

    def call(self, x, y=None, sample_weight=None, sequence_length=None):
        length = sequence_length or self.sequence_length
        rows, weights = zip(*(self.row(messages) for messages in x), strict=True)
        return pack_rows(rows, weights, length, self.tokenizer.pad_token_id)

    def row(self, messages):
        """One conversation as `(token ids, target weights)`, bos first."""
        ids, weight = [self.tokenizer.start_token_id], [0.0]
        for part, is_answer in chat.render(messages):
            part_ids = self.tokenizer.encode([part])
            ids += part_ids
            weight += [float(is_answer)] * len(part_ids)
        return ids, weight
