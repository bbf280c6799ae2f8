"""Text to model inputs: plain, fill-in-the-middle, and chat.

Each turns text into `(x, y, sample_weight)` for `fit()`: model inputs, the token that
follows each, and what it counts in the loss, each `[B, T]`. Only control tokens written by
`fim.render` and `chat.render` are control tokens; the plain preprocessor alone keeps
KerasHub's meaning, in which a control string in the text becomes the token.

All take Python strings and lists, numpy arrays, and what passes through `tf.data` and
grain, with the same results; TensorFlow is only needed for `tf.data`. Targets are made of
the text, so a `y` is refused. A `sample_weight` of one number for each text or
conversation multiplies the weights of its targets.

Left out: several documents in one row; the data build and the recipes do that, with the
same packer (`batches.pack`).
"""

import sys
import threading

import keras
import keras_hub
import numpy as np
from keras_hub.src.utils.python_utils import classproperty

from codegemma_keras import chat, fim, in_memory, presets
from codegemma_keras.backbone import CodeGemmaBackbone
from codegemma_keras.batches import INPUTS, PackedBatch, pack
from codegemma_keras.data.document import Document
from codegemma_keras.data.languages import language_of
from codegemma_keras.data.rows.examples import encode_document, fits
from codegemma_keras.data.rows.fim_split import FimSettings, target_weights
from codegemma_keras.formats.keras_hub import save_preprocessor
from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer

# KerasHub finds the classes of a preset by their backbone; the tokenizer's own module
# knows no network.
CodeGemmaTokenizer.backbone_cls = CodeGemmaBackbone

# What `span_lengths` means, as shares of `FimSettings`.
SPAN_LENGTHS = {
    "uniform": {},
    "log_uniform": {"short_share": 1.0},
    "lines": {"line_share": 0.75, "short_share": 0.25},
}
# Workers of `tf.data` share a preprocessor. Not an attribute: preprocessors are copied.
_counting = threading.Lock()


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaCausalLMPreprocessor(keras_hub.models.CausalLMPreprocessor):
    """Raw text for `fit()` and `generate()`, as KerasHub's Gemma preprocessor.

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        sequence_length: int. T: rows are padded or cut to it, and no prompt may be
            longer.
        add_start_token: bool. Prepend bos; CodeGemma needs it.
        add_end_token: bool. Append eos in training.
        infill_mode: how a model with this preprocessor is asked to fill in, unless the
            caller says it: `"psm"`, `"spm"`, or `"left_to_right"` for one that was never
            taught to.

    Examples:
        >>> preprocessor = CodeGemmaCausalLMPreprocessor(
        ...     lm.tokenizer, sequence_length=8
        ... )
        >>> x, y, sample_weight = preprocessor(["import os"])
        >>> tuple(x["token_ids"].shape)
        (1, 8)
    """

    backbone_cls = CodeGemmaBackbone
    tokenizer_cls = CodeGemmaTokenizer

    def __init__(self, tokenizer, *args, infill_mode="psm", **kwargs):
        fim.render("", "", mode=infill_mode)  # raises if it is none
        super().__init__(tokenizer, *args, **kwargs)
        self.infill_mode = infill_mode

    def get_config(self):
        return {**super().get_config(), "infill_mode": self.infill_mode}

    @classproperty
    def presets(cls):
        """Presets that `from_preset` knows by name, as in KerasHub."""
        return presets.listing()

    def call(self, x, y=None, sample_weight=None, sequence_length=None):
        refuse_targets(y)
        x, y, weights = super().call(x, sequence_length=sequence_length)
        return x, y, _weighted(weights, sample_weight)

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """Load the preprocessor of a preset; see `CodeGemmaCausalLM.from_preset`."""
        return presets.Preset(preset).preprocessor(cls, **kwargs)

    def save_to_preset(self, preset_dir):
        """Save configuration and vocabulary into a preset folder."""
        save_preprocessor(self, preset_dir)


def refuse_targets(y):
    """Raises: ValueError: `y` is given, which would be ignored."""
    if y is not None:
        raise ValueError(
            "The targets are made of the text, and a `y` would be ignored. Leave it out; "
            "in a dataset, map each element to its text first."
        )


def _weighted(weights, sample_weight):
    """Weights `[B, T]` or `[T]` times one number for each row."""
    if sample_weight is None:
        return weights
    if in_tf_graph():
        tf = sys.modules["tensorflow"]
        each = tf.cast(sample_weight, "float32")[..., None]
        return tf.cast(weights, "float32") * each
    each = np.asarray(sample_weight, "float32")
    weights = np.asarray(weights, "float32")
    if each.shape != weights.shape[:-1]:
        raise ValueError(
            f"sample_weight of shape {each.shape} must have one number for each text; "
            f"expected shape {weights.shape[:-1]}."
        )
    return weights * each[..., None]


def in_tf_graph() -> bool:
    """Whether a `tf.data` pipeline or a `tf.function` is being traced."""
    tf = sys.modules.get("tensorflow")
    # A module that was only half uninstalled has no attributes.
    return hasattr(tf, "executing_eagerly") and not tf.executing_eagerly()


def plain(value):
    """Arrays, tensors and bytes as Python lists, numbers and strings.

    Bytes that are not UTF-8 become surrogates, so that no byte of a file is lost.
    """
    if isinstance(value, dict):
        return {name: plain(column) for name, column in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "to_list"):  # a ragged tensor
        return plain(value.to_list())
    return plain(np.asarray(value).tolist()) if hasattr(value, "__array__") else value


class RowPreprocessor(CodeGemmaCausalLMPreprocessor):
    """What the two preprocessors below share: one row of training for each example.

    A subclass has `examples(x)`, which gives a list of examples and whether `x` was a
    single one; `rank(x)`, 0 for a single one and 1 for a batch; and `example_row(example,
    length)`, which gives `(token ids, target weights)` of at most `length + 1` ids.
    """

    def call(self, x, y=None, sample_weight=None, sequence_length=None):
        refuse_targets(y)
        length = sequence_length or self.sequence_length
        epoch = in_memory.epoch()
        if in_tf_graph():
            return self._call_in_graph(x, sample_weight, length, epoch)
        return self._call_eagerly(x, sample_weight, length, epoch)

    def _call_eagerly(self, x, sample_weight, length, epoch):
        examples, single = self.examples(plain(x))
        rows = [self.example_row(example, length, epoch) for example in examples]
        batch = pack(
            [ids for ids, _ in rows],
            length,
            weights=[weights for _, weights in rows],
            rows=[[i] if ids else [] for i, (ids, _) in enumerate(rows)],
            pad_token_id=self.tokenizer.pad_token_id,
        )
        batch = batch.take(0) if single else batch
        return batch._replace(weights=_weighted(batch.weights, sample_weight))

    def _call_in_graph(self, x, sample_weight, length, epoch):
        tf = sys.modules["tensorflow"]
        names = list(x) if isinstance(x, dict) else None

        def make(*columns):
            given = dict(zip(names, columns, strict=True)) if names else columns[0]
            inputs, targets, weights = self._call_eagerly(given, None, length, epoch)
            return *(inputs[name] for name in INPUTS), targets, weights

        columns = list(x.values()) if names else [x]
        types = ["int32"] * (len(INPUTS) + 1) + ["float32"]
        made = tf.py_function(make, columns, types)
        leading = [None] * self.rank(x)
        for tensor in made:
            tensor.set_shape([*leading, length])
        *inputs, targets, weights = made
        inputs = dict(zip(INPUTS, inputs, strict=True))
        return PackedBatch(inputs, targets, _weighted(weights, sample_weight))


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaFIMPreprocessor(RowPreprocessor):
    r"""Whole files to fill-in-the-middle training rows.

    The example of a file is that of the data build with the same settings
    (`data.rows.fim_split`). A file that is too long is cut at a line end before it is
    split, so the middle and the token that ends it are always there: a model that never
    sees the end never learns to stop. A path that leaves no room for text is left out.

    `fit` on texts in memory cuts each file anew in every epoch. A `tf.data` or grain
    pipeline does so if its elements say which epoch they belong to (see below).

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        sequence_length: int. T.
        fim_rate: share of files that are split; the rest stay left-to-right.
        spm_rate: share of the split files rendered suffix first.
        span_lengths: `"uniform"`, `"log_uniform"` or `"lines"`; or a dictionary of the
            shares in `FimSettings`, such as `{"line_share": 0.6, "block_share": 0.2}`.
        middle_only: bool. No loss on the prefix and the suffix of a file that is split.
            The default, loss on all parts, is what keeps the left-to-right skill.
        middle_weight: float. The weight of the targets in a middle, and of the token that
            ends it, where others have 1. The middle is a small part of a row, so more
            than 1 spends more of the learning on what an editor asks for.
        seed: int. With the text, its path and the epoch it decides every random choice,
            so a file is split alike in whatever order files come.

    Call arguments: x, a text or a list of texts or of `(path, text)` pairs; or a dictionary
    of columns `{"text", "path", "epoch"}`, of which only the first must be there.

    Raises:
        ValueError: a rate, share or weight out of range; T too short for any text.

    Examples:
        >>> preprocessor = CodeGemmaFIMPreprocessor(lm.tokenizer, sequence_length=64)
        >>> x, y, sample_weight = preprocessor(
        ...     [("f.py", "def f(x):\n    return x + 1\n")]
        ... )
        >>> tuple(x["token_ids"].shape)
        (1, 64)
    """

    def __init__(
        self,
        tokenizer,
        sequence_length=1024,
        fim_rate=0.9,
        spm_rate=0.5,
        span_lengths="uniform",
        middle_only=False,
        middle_weight=1.0,
        seed=0,
        **kwargs,
    ):
        super().__init__(tokenizer, sequence_length=sequence_length, **kwargs)
        for name, rate in (("fim_rate", fim_rate), ("spm_rate", spm_rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"{name}={rate} must be between 0 and 1.")
        if not 0 <= middle_weight < float("inf"):
            raise ValueError(
                f"middle_weight={middle_weight} must be 0 or more, and finite."
            )
        if isinstance(span_lengths, str) and span_lengths not in SPAN_LENGTHS:
            raise ValueError(
                f"span_lengths={span_lengths!r} must be one of {tuple(SPAN_LENGTHS)}, or "
                "a dictionary of shares."
            )
        self.fim_rate = fim_rate
        self.spm_rate = spm_rate
        self.span_lengths = span_lengths
        self.middle_only = middle_only
        self.middle_weight = middle_weight
        self.seed = seed
        _ = self.settings  # Wrong shares are an error now.

    @property
    def settings(self) -> FimSettings:
        """The same settings for a data build: `data.Settings(fim=...)`."""
        shares = self.span_lengths
        if isinstance(shares, str):
            shares = SPAN_LENGTHS[shares]
        return FimSettings(
            rate=self.fim_rate,
            spm_share=self.spm_rate,
            seed=self.seed,
            **{"syntax_share": 0.0, **shares},
        )

    def row(self, text, path=None, length=None, epoch=0):
        """One file as `(token ids, target weights)`, bos first, eos last."""
        return self.example_row((path, text, epoch), length or self.sequence_length)

    def example_row(self, example, length, epoch=0):
        path, text, own_epoch = example
        tokenizer = self.tokenizer
        if path and not fits(path, tokenizer.encode, length - 1):
            path = None
        document = Document(text, path or "", language=language_of(path or ""))
        pieces = encode_document(
            document,
            tokenizer.encode,
            self.settings,
            length - 1,
            epoch if own_epoch is None else own_epoch,
        )
        piece = next(pieces)
        ids = [tokenizer.start_token_id, *piece.token_ids, tokenizer.end_token_id]
        weights = target_weights(
            ids,
            tokenizer.codec.control_ids,
            self.middle_weight,
            0.0 if self.middle_only else 1.0,
        )
        weights[0] = 0.0
        return ids, weights.tolist()

    def examples(self, x):
        single = isinstance(x, str)
        columns = x if isinstance(x, dict) else {"text": [x] if single else x}
        if unknown := sorted(columns.keys() - {"text", "path", "epoch"}):
            raise ValueError(
                f"x has the columns {unknown}; known are 'text', 'path' and 'epoch'."
            )
        texts = columns["text"]
        if isinstance(texts, str):
            single, texts = True, [texts]
        columns = {
            name: columns[name]
            if isinstance(columns.get(name), list)
            else [columns.get(name)] * len(texts)
            for name in ("path", "epoch")
        }
        examples = []
        for item, path, epoch in zip(
            texts, columns["path"], columns["epoch"], strict=True
        ):
            # A pair is a list here: `plain` makes no tuples.
            path, text = (path, item) if isinstance(item, str) else item
            examples.append((path or None, text, epoch))
        return examples, single

    def rank(self, x):
        text = x["text"] if isinstance(x, dict) else x
        return min(1, text.shape.rank)

    def get_config(self):
        return {
            **super().get_config(),
            "fim_rate": self.fim_rate,
            "spm_rate": self.spm_rate,
            "span_lengths": self.span_lengths,
            "middle_only": self.middle_only,
            "middle_weight": self.middle_weight,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaChatPreprocessor(RowPreprocessor):
    """Conversations to training rows with loss on the answers only.

    A conversation that is too long keeps its first rounds that fit. A round is never cut,
    because an answer without its end would teach the model not to stop. A conversation
    in which no answer is left becomes a row of padding with weight 0, so that a batch
    keeps its shape; `fit` on conversations in memory leaves it out beforehand, and says so.

    Call arguments: x, a list of conversations, each a list of
    `{"role": "user" | "model", "content": str}` (see `chat.render`); or columns, which
    `tf.data` can hold: `{"prompts", "responses"}`, strings or lists of strings; or
    `{"role", "content"}`, for each conversation the roles and the contents of its messages.

    Attributes:
        dropped: int, conversations so far in which no answer was left.
        shortened: int, those that kept some of their answers, and not all.

    Raises:
        TypeError, ValueError: as `chat.render`, with the place of the conversation.

    Examples:
        >>> preprocessor = CodeGemmaChatPreprocessor(lm.tokenizer, sequence_length=32)
        >>> chat = [
        ...     {"role": "user", "content": "Hi"},
        ...     {"role": "model", "content": "Hello"},
        ... ]
        >>> x, y, sample_weight = preprocessor([chat])
        >>> int((sample_weight > 0).sum()) > 1  # the answer and the token that ends it
        True
    """

    def __init__(self, tokenizer, sequence_length=1024, **kwargs):
        super().__init__(tokenizer, sequence_length=sequence_length, **kwargs)
        self.dropped = self.shortened = 0

    def row(self, messages, length=None):
        """One conversation as `(token ids, target weights)`, bos first.

        Args:
            messages: as of `chat.render`.
            length: T: the first rounds that take at most so many places; None: all.

        Returns:
            Lists of equal length, ending with the end of the last answer that fits. Both
            are empty if there is none.
        """
        ids, weights, end = [self.tokenizer.start_token_id], [0.0], 0
        form = self.tokenizer.chat_format
        for part, is_answer in chat.render(messages, chat_format=form):
            part_ids = self.tokenizer.encode([part])
            ids += part_ids
            weights += [float(is_answer)] * len(part_ids)
            if length is not None and len(ids) > length + 1:
                break
            if is_answer and part == chat.END_OF_TURN:
                end = len(ids)
        return ids[:end], weights[:end]

    def has_targets(self, messages) -> bool:
        """Whether a conversation has an answer that fits in a row."""
        return bool(self.row(messages, self.sequence_length)[0])

    def example_row(self, example, length, epoch=0):
        place, messages = example
        try:
            row = self.row(messages, length)
            answers = sum(
                role == chat.MODEL and content != ""
                for role, content in chat.normalize(messages)
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"Conversation {place} of the batch: {error}") from None
        end = self.tokenizer.end_of_turn_id
        kept = sum(i == end and weight > 0 for i, weight in zip(*row, strict=True))
        with _counting:
            self.dropped += not kept
            self.shortened += 0 < kept < answers
        return row

    def examples(self, x):
        single = False
        if isinstance(x, dict):
            x, single = _conversations(x)
        elif x and isinstance(x[0], dict):
            x, single = [x], True
        return list(enumerate(x)), single

    def rank(self, x):
        if not isinstance(x, dict):
            raise ValueError(
                "In a tf.data pipeline, conversations are columns: {'prompts', "
                "'responses'}, or {'role', 'content'} of ragged tensors."
            )
        if "role" in x:
            return x["role"].shape.rank - 1
        return x["prompts"].shape.rank


def _conversations(columns):
    """`(conversations, whether it is a single one)` of columns of text."""
    if columns.keys() == {"prompts", "responses"}:
        single = isinstance(columns["prompts"], str)
        prompts, responses = (
            [columns[name]] if single else columns[name]
            for name in ("prompts", "responses")
        )
        return [
            [
                {"role": chat.USER, "content": prompt},
                {"role": chat.MODEL, "content": response},
            ]
            for prompt, response in zip(prompts, responses, strict=True)
        ], single
    if columns.keys() != {"role", "content"}:
        raise ValueError(
            f"x has the columns {sorted(columns)}; it must have 'prompts' and "
            "'responses', or 'role' and 'content'."
        )
    roles, contents = columns["role"], columns["content"]
    single = bool(roles) and isinstance(roles[0], str)
    if single:
        roles, contents = [roles], [contents]
    return [
        [
            {"role": role, "content": content}
            for role, content in zip(*conversation, strict=True)
        ]
        for conversation in zip(roles, contents, strict=True)
    ], single
