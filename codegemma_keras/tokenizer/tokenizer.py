"""`CodeGemmaTokenizer`: a vocabulary with control tokens that text cannot forge.

Two ways in, over one vocabulary:

* `tokenizer(text)`, `tokenize`, `detokenize` mean what they mean in KerasHub: batched,
  usable in `tf.data`, and *raw*: `<|fim_prefix|>` in the text becomes the control token.
* `encode(text_or_parts)`, `decode*` are plain Python, with no TensorFlow, for any text a
  user may have. Only a `fim.Control` becomes a control token, and every byte comes back:
  NULs, CRLF, runs of spaces, `▁` (which SentencePiece itself takes for a space), bytes
  that are not UTF-8 (as the surrogates of `errors="surrogateescape"`).

The second way is `codec.PlainCodec`, in which text never is a control piece. On text
with none of the above both ways give the same ids. The vocabulary is a SentencePiece
model, as CodeGemma's, or a tokenizer.json of the `tokenizers` library.

Left out: sampling of segmentations and the unigram model, which Gemma does not use.
"""

import codecs
import os
from collections.abc import Iterable

import keras
import keras_hub
import numpy as np
from keras.src.saving import serialization_lib
from keras_hub.src.tokenizers.sentence_piece_tokenizer import VOCAB_FILENAME
from keras_hub.src.utils.python_utils import classproperty

from codegemma_keras import chat, export, fim, presets
from codegemma_keras.fim import Control
from codegemma_keras.formats import tokenizer_json
from codegemma_keras.formats.keras_hub import save_tokenizer
from codegemma_keras.tokenizer.codec import PlainCodec
from codegemma_keras.tokenizer.vocabularies import (
    SPECIAL_TOKENS,
    InGraph,
    RawProcessor,
    with_sentinel_names,
)


class IncrementalDecoder:
    """Text of a growing row of ids, each character as soon as it is whole.

    `"".join(decoder.push(i) for i in ids) + decoder.finish()` is `decode(ids)`.

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`.
    """

    def __init__(self, tokenizer, errors: str = "replace"):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, ids: int | Iterable[int]) -> str:
        """Text completed by one more id, or by several; may be empty."""
        ids = [ids] if isinstance(ids, (int, np.integer)) else ids
        return self._decoder.decode(self._tokenizer.decode_bytes(ids))

    def finish(self) -> str:
        """What is left: a character whose bytes stopped coming."""
        return self._decoder.decode(b"", final=True)


# KerasHub 0.26 has one way in, by TensorFlow's own tokenizer; later ones have these.
_HAS_WAYS_IN = hasattr(keras_hub.tokenizers.SentencePieceTokenizer, "_set_proto_tf")


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaTokenizer(keras_hub.tokenizers.SentencePieceTokenizer):
    """Tokenizer of CodeGemma.

    Args:
        proto: path or bytes of a SentencePiece model or of a tokenizer.json, or None to
            load it later (`load_assets`). Vocabularies that call ids 67 to 70
            `<unused60>` to `<unused63>` get the sentinels' names.
        chat_format: name of the turns that the model was taught, one of
            `chat.FORMATS`.
        **kwargs: as `keras_hub.tokenizers.SentencePieceTokenizer`; `sequence_length`,
            `add_bos` and `add_eos` concern `tokenize` alone.

    Attributes:
        start_token_id, end_token_id, pad_token_id: bos 2, eos 1, padding 0 in CodeGemma.
        fim_prefix_id, fim_middle_id, fim_suffix_id, file_separator_id: 67 to 70 there.
        start_of_turn_id, end_of_turn_id: 106, 107 there.

    Raises:
        ValueError: the vocabulary lacks a control token or a byte, or changes text.

    Example:
    ```python
    from codegemma_keras import CodeGemmaTokenizer, fim

    tokenizer = CodeGemmaTokenizer.from_preset("code_gemma_tiny_py")
    ids = tokenizer.encode(fim.render("def f(", "):\\n", path="f.py"))
    assert fim.parse(tokenizer.decode_parts(ids)).suffix == "):\\n"
    ```
    """

    backbone_cls = None  # set where the backbone is known

    def __init__(self, proto=None, chat_format="gemma", **kwargs):
        if chat_format not in chat.FORMATS:
            raise ValueError(
                f"chat_format={chat_format!r}: known are {', '.join(chat.FORMATS)}."
            )
        self.chat_format = chat_format
        self._codec = None
        for attribute, name in SPECIAL_TOKENS.items():
            self._add_special_token(str(name), attribute)
        super().__init__(proto=proto, **kwargs)
        # It has no weights. Keras refuses to quantize a model with a layer not built.
        self.built = True

    def set_proto(self, proto):
        """Set the vocabulary: a path, bytes, or None."""
        self._codec = None
        # KerasHub would leave the file open. In safe mode it refuses paths: let it.
        if (
            isinstance(proto, (str, os.PathLike))
            and not serialization_lib.in_safe_mode()
        ):
            proto = os.fspath(proto)
            if os.path.isfile(proto):
                with open(proto, "rb") as file:
                    proto = file.read()
        if isinstance(proto, bytes):  # Checked before other libraries read it.
            proto = with_sentinel_names(proto)
            self._codec = PlainCodec(proto)
            if tokenizer_json.is_json(proto) and not _HAS_WAYS_IN:
                # It would give the vocabulary to TensorFlow, which can't read this kind.
                self._sentence_piece = InGraph(
                    RawProcessor(self._codec), self.compute_dtype
                )
                self.proto = proto
                self._update_special_token_ids()
                return
        super().set_proto(proto)

    # KerasHub's ways in, for TensorFlow and without it.

    def _set_proto_tf(self, proto):
        # TensorFlow's copy of the model is made where `tf.data` first needs it.
        self._sentence_piece = None

    def _maybe_initialized_tf(self):
        if self._sentence_piece is None and tokenizer_json.is_json(self.proto):
            processor = RawProcessor(self.codec)
            self._sentence_piece = InGraph(processor, self.compute_dtype)
        elif self._sentence_piece is None:
            import tensorflow as tf

            with tf.init_scope():  # Outside the graph that asks for it.
                super()._set_proto_tf(self.proto)

    def _set_proto_spm(self, proto):
        if not tokenizer_json.is_json(proto):
            super()._set_proto_spm(proto)
            return
        if self._codec is None:  # as in `_update_special_token_ids`
            self._codec = PlainCodec(with_sentinel_names(proto))
        self._sentence_piece_spm = RawProcessor(
            self._codec, strings=self.compute_dtype == "string"
        )

    @property
    def vocabulary_file(self) -> str:
        """Name of the file that `save_assets` writes."""
        is_json = tokenizer_json.is_json(self.proto)
        return tokenizer_json.FILE if is_json else VOCAB_FILENAME

    def save_assets(self, dir_path):
        with open(os.path.join(dir_path, self.vocabulary_file), "wb") as file:
            file.write(self.proto)

    def load_assets(self, dir_path):
        json_file = os.path.join(dir_path, tokenizer_json.FILE)
        if not os.path.exists(json_file):
            super().load_assets(dir_path)
            return
        with open(json_file, "rb") as file:
            self.set_proto(file.read())

    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return len(self.codec.vocabulary.bytes_of)

    def get_config(self):
        return {**super().get_config(), "chat_format": self.chat_format}

    def _update_special_token_ids(self):
        if self._codec is None:  # `proto` was a string of base64, from `.keras` files.
            self.proto = with_sentinel_names(self.proto)
            self._codec = PlainCodec(self.proto)
        super()._update_special_token_ids()

    @property
    def codec(self) -> PlainCodec:
        """The plain Python way in and out."""
        if self._codec is None:
            raise ValueError(
                "The tokenizer has no vocabulary yet. Pass `proto=`, a SentencePiece "
                "model, or use `from_preset`."
            )
        return self._codec

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: eos, the sentinels, the end of a turn."""
        return tuple(sorted(self.codec.control_ids[name] for name in fim.STOP))

    def encode(self, parts: str | Iterable[str | Control]) -> list[int]:
        """Ids of a text, or of rendered parts; no bos is added.

        Args:
            parts: a string, or a list of strings and `Control`. Each string is encoded
                by itself, never to a control token.

        Returns:
            A list of ints.

        Raises:
            TypeError: a part that is no string.
            ValueError: a `Control` that the vocabulary lacks; half a surrogate pair.

        Examples:
            >>> ids = lm.tokenizer.encode("def f(<|fim_prefix|>")  # no control token
            >>> lm.tokenizer.fim_prefix_id in ids
            False
        """
        return self.codec.encode(parts)

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        r"""The text of ids; control tokens have none.

        Args:
            ids: one row of ints, as a list, array or tensor.
            errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`;
                `"surrogateescape"` keeps them.

        Raises:
            TypeError: not whole numbers. ValueError: an id out of range.

        Examples:
            >>> lm.tokenizer.decode(lm.tokenizer.encode("x = 1\n"))
            'x = 1\n'
        """
        return self.codec.decode_bytes(ids).decode("utf-8", errors)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        r"""The bytes of ids; `decode_bytes(encode(text))` are those of the text.

        Raises: as `decode`.

        Examples:
            >>> lm.tokenizer.decode_bytes(lm.tokenizer.encode("é"))
            b'\xc3\xa9'
        """
        return self.codec.decode_bytes(ids)

    def decode_parts(self, ids: Iterable[int]) -> list[str | Control]:
        """Ids as parts: text as strings, a `Control` for each control token.

        Bytes that are not UTF-8 become surrogates (`errors="surrogateescape"`), so
        `encode` gives the same bytes again. `fim.parse` reads the result.

        Raises: as `decode`.

        Examples:
            >>> lm.tokenizer.decode_parts(lm.tokenizer.encode([fim.SUFFIX, "x = 1"]))
            [Control('<|fim_suffix|>'), 'x = 1']
        """
        return self.codec.decode_parts(ids)

    @classproperty
    def presets(cls):
        """Presets that `from_preset` knows by name, as in KerasHub."""
        return presets.listing()

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """Load the tokenizer of a preset; see `CodeGemmaCausalLM.from_preset`.

        Examples:
            >>> CodeGemmaTokenizer.from_preset("code_gemma_tiny_py").vocabulary_size()
            8192
        """
        return presets.Preset(preset).tokenizer(cls, **kwargs)

    def save_to_preset(self, preset_dir):
        """Save configuration and vocabulary into a preset folder.

        Examples:
            >>> lm.tokenizer.save_to_preset("tokenizer")
            >>> CodeGemmaTokenizer.from_preset("tokenizer").decode(
            ...     [lm.tokenizer.encode("a")[0]]
            ... )
            'a'
        """
        save_tokenizer(self, preset_dir)

    def export_to_transformers(self, path):
        """Write the vocabulary as Transformers and llama.cpp's converter read it.

        Examples:
            >>> import os
            >>> lm.tokenizer.export_to_transformers("exported")
            >>> "tokenizer.json" in os.listdir("exported")
            True
        """
        export.transformers.update(export.Model(config=None, tokenizer=self), path)
