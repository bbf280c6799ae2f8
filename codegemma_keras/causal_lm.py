"""`CodeGemmaCausalLM`: the network with its head, preprocessing and decoding.

KerasHub's `CausalLM` in its meaning (`fit`, `generate`, `compile(sampler=...)`,
`from_preset`, `enable_lora` on the backbone, `quantize`), plus what a code model is for:
`infill`, `complete` and `chat`.
"""

import dataclasses

import keras
import keras_hub
import numpy as np
from keras import ops

from codegemma_keras import chat, fim, presets
from codegemma_keras.backbone import CodeGemmaBackbone
from codegemma_keras.decoding import Engine, Sampling, stopping
from codegemma_keras.preprocessor import CodeGemmaCausalLMPreprocessor


@dataclasses.dataclass(frozen=True)
class Completion:
    """A completion and how it ended.

    Attributes:
        text: the completion, cut before any control token and any stop string.
        stop_reason: `"stop_token"`, `"stop_string"` or `"max_new_tokens"`.
        token_ids: the new tokens, before cutting at a stop string.
        prompt_tokens: how many tokens the prompt took, bos included.
        prefix, suffix: what of the caller's text fitted into the prompt.
    """

    text: str
    stop_reason: str
    token_ids: list[int]
    prompt_tokens: int
    prefix: str = ""
    suffix: str = ""


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaCausalLM(keras_hub.models.CausalLM):
    """CodeGemma for completion, fill-in-the-middle and chat.

    Args:
        backbone: a `CodeGemmaBackbone`.
        preprocessor: a `CodeGemmaCausalLMPreprocessor`, or None to work on token ids.
            Its `sequence_length` is the context: no prompt may be longer.

    Calling the model on `{"token_ids", "padding_mask"}` (int `[B, T]`) gives logits
    `[B, T, V]`.

    Example:
    ```python
    from codegemma_keras import CodeGemmaCausalLM

    lm = CodeGemmaCausalLM.from_preset("code_gemma_tiny_py")
    middle = lm.infill(
        prefix="def mean(values):\\n    return ",
        suffix=" / len(values)\\n",
        path="stats.py",
        max_new_tokens=16,
    )
    text = lm.generate("import numpy as ", max_new_tokens=4)
    ```
    """

    backbone_cls = CodeGemmaBackbone
    preprocessor_cls = CodeGemmaCausalLMPreprocessor

    def __init__(self, backbone, preprocessor=None, **kwargs):
        self.backbone = backbone
        self.preprocessor = preprocessor
        self._engine = None
        inputs = backbone.input
        super().__init__(
            inputs=inputs,
            outputs=backbone.token_embedding(backbone(inputs), reverse=True),
            **kwargs,
        )

    def call(self, inputs, training=None, mask=None):
        del mask  # Keras's implicit masks; ours is `padding_mask`.
        return self.backbone.logits(self.backbone(inputs, training=training))

    @property
    def input_spec(self):
        return None  # as in the backbone: optional inputs need not be given

    def compile(
        self,
        optimizer="auto",
        loss="auto",
        *,
        weighted_metrics="auto",
        sampler="greedy",
        **kwargs,
    ):
        """As `keras_hub.models.CausalLM.compile`; the default sampler is greedy."""
        super().compile(
            optimizer=optimizer,
            loss=loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            **kwargs,
        )

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        """Load a model by name, handle or folder.

        Args:
            preset: a name (`presets.PRESETS`), `kaggle://...`, `hf://...` (Keras or
                Transformers format), or a local folder in either format.
            load_weights: bool. False gives random weights.
            dtype: dtype or policy of the weights, for example `"bfloat16"`.
            **kwargs: passed to the constructor (`preprocessor=None`, ...).

        Raises:
            ValueError, OSError: one clear error that says what to do.
        """
        return presets.load_task(cls, preset, load_weights, dtype, **kwargs)

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Save as a KerasHub preset folder (shards of `max_shard_size` GB)."""
        presets.save_task(self, preset_dir, max_shard_size)

    # Decoding

    @property
    def tokenizer(self):
        """The tokenizer of the preprocessor."""
        if self.preprocessor is None:
            raise ValueError(
                "This model has no preprocessor, so it works on token ids only. Set "
                "`lm.preprocessor` or load it with `from_preset`."
            )
        return self.preprocessor.tokenizer

    @property
    def engine(self) -> Engine:
        """The decode engine over the present variables."""
        # LoRA and quantisation replace variables, and compiled programs name them.
        key = tuple(id(v) for v in self.variables)
        if self._engine is None or self._engine[0] != key:
            self._engine = (key, Engine(self))
        return self._engine[1]

    def generate(
        self,
        inputs,
        max_length=None,
        stop_token_ids="auto",
        strip_prompt=False,
        *,
        max_new_tokens=None,
        stop_strings=(),
        sampling=None,
        seed=None,
    ):
        """Continue prompts, as `keras_hub.models.CausalLM.generate`.

        Prompts are *raw*: a control string in them, such as `<|fim_prefix|>`, becomes
        the control token. For text that a user wrote, use `infill`, `complete` or
        `chat`, in which it cannot.

        Args:
            inputs: a string, a list of strings, a `tf.data.Dataset` of batches of
                strings, or without a preprocessor a dictionary of `token_ids` and
                `padding_mask`, each `[B, max_length]`.
            max_length: int. Prompt and new tokens together, bos included. Default: the
                preprocessor's `sequence_length`.
            stop_token_ids: `"auto"` (eos, the FIM sentinels and `<end_of_turn>`), a
                sequence of ids, or None to go on until the length is reached.
            strip_prompt: bool. Return the new text only.
            max_new_tokens: int. New tokens a prompt, instead of `max_length`.
            stop_strings: the text ends before the first of these.
            sampling: a `Sampling`; default: as the compiled sampler.
            seed: int; each prompt of a batch draws from (seed, its index).

        Returns:
            Strings (one if one was given), or a dictionary with the same keys.

        Raises:
            ValueError: a prompt does not fit; wrong ids; no room for a new token.
        """
        sampling = sampling or Sampling.from_keras_hub(self.sampler)
        if sampling is None:
            return self._generate_with_keras_hub(
                inputs, max_length, max_new_tokens, stop_token_ids, strip_prompt
            )
        stops = self._stop_token_ids(stop_token_ids)
        if isinstance(inputs, dict):
            return self._generate_ids(inputs, stops, sampling, seed, strip_prompt)
        if hasattr(inputs, "as_numpy_iterator"):  # a tf.data.Dataset of batches
            batches = [[t.decode() for t in b] for b in inputs.as_numpy_iterator()]
            inputs = [text for batch in batches for text in batch]
        single = isinstance(inputs, str)
        texts = [inputs] if single else [str(text) for text in inputs]
        prompts = [self._raw_prompt(text) for text in texts]
        budgets = [
            self._new_tokens(len(p), max_length, max_new_tokens) for p in prompts
        ]
        results = self.engine.generate(
            prompts, max(budgets, default=0), stops, sampling, self._seeds(seed, texts)
        )
        outputs = []
        for text, budget, result in zip(texts, budgets, results, strict=True):
            new, _ = stopping.cut(
                self.tokenizer.decode(result.token_ids[:budget]), stop_strings
            )
            outputs.append(new if strip_prompt else text + new)
        return outputs[0] if single else outputs

    def infill(self, prefix, suffix="", **kwargs) -> str:
        """The text that belongs between `prefix` and `suffix`.

        The text of `complete`, whose arguments it takes.
        """
        return self.complete(prefix, suffix, **kwargs).text

    def complete(
        self,
        prefix,
        suffix="",
        *,
        path=None,
        context=(),
        max_new_tokens=128,
        mode="psm",
        stop_strings=(),
        sampling=None,
        seed=None,
    ) -> Completion:
        """Fill in the middle, with how it ended.

        Text that is too long for the context is cut, farthest from the cursor first
        (`fim.shrink`); control strings in it stay plain text.

        Args:
            prefix: str, the text before the cursor; may be empty.
            suffix: str, the text after the cursor; may be empty.
            path: str, the file's path in its repository; recommended.
            context: `(path, text)` pairs of other files, most related last.
            max_new_tokens: int.
            mode: `"psm"` or `"spm"`, the order of the prompt.
            stop_strings: the completion ends before the first of these.
            sampling: a `Sampling`; default: as the compiled sampler.
            seed: int.

        Returns:
            A `Completion`.
        """
        sampling = sampling or Sampling.from_keras_hub(self.sampler)
        if sampling is None:
            raise ValueError(
                f"{type(self.sampler).__name__} cannot drive infill(). Pass `sampling="
                "Sampling(...)` or compile with a greedy, random, top-k or top-p sampler."
            )
        encode = self.tokenizer.encode
        limit = self._prompt_limit(max_new_tokens) - 1  # bos
        prefix, suffix, context = fim.shrink(
            prefix, suffix, context, limit, encode, path=path
        )
        parts = fim.render(prefix, suffix, path=path, context=context, mode=mode)
        ids = [self.tokenizer.start_token_id, *encode(parts)]
        return self._complete_ids(
            ids, max_new_tokens, stop_strings, sampling, seed, prefix, suffix
        )

    def chat(
        self,
        messages,
        *,
        max_new_tokens=512,
        stop_strings=(),
        sampling=None,
        seed=None,
    ) -> str:
        """The model's answer to a conversation.

        Args:
            messages: `[{"role": "user" | "model", "content": str}, ...]`, ending with
                the user; or a string, one user message.
            max_new_tokens, stop_strings, sampling, seed: as in `complete`.

        Returns:
            The answer, without control tokens.

        Raises:
            ValueError: roles that do not alternate; a conversation that does not fit.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        sampling = sampling or Sampling.from_keras_hub(self.sampler) or Sampling()
        parts = [part for part, _ in chat.render(messages, add_generation_prompt=True)]
        ids = [self.tokenizer.start_token_id, *self.tokenizer.encode(parts)]
        self._new_tokens(len(ids), None, max_new_tokens)
        return self._complete_ids(
            ids, max_new_tokens, stop_strings, sampling, seed
        ).text

    def _complete_ids(
        self, ids, max_new_tokens, stop_strings, sampling, seed, prefix="", suffix=""
    ):
        [result] = self.engine.generate(
            [ids],
            max_new_tokens,
            self.tokenizer.stop_token_ids,
            sampling,
            self._seeds(seed, [0]),
        )
        text, cut = stopping.cut(self.tokenizer.decode(result.token_ids), stop_strings)
        return Completion(
            text=text,
            stop_reason="stop_string" if cut else result.stop_reason,
            token_ids=result.token_ids,
            prompt_tokens=len(ids),
            prefix=prefix,
            suffix=suffix,
        )

    def _raw_prompt(self, text):
        ids = [int(t) for t in self.tokenizer.tokenize(text)]
        if self.preprocessor.add_start_token:
            ids.insert(0, self.tokenizer.start_token_id)
        return ids

    def _stop_token_ids(self, stop_token_ids):
        if stop_token_ids is None:
            return ()
        if isinstance(stop_token_ids, str):
            if stop_token_ids != "auto":
                raise ValueError(
                    f"stop_token_ids={stop_token_ids!r}: give 'auto', None or ids."
                )
            return self.tokenizer.stop_token_ids
        return tuple(int(t) for t in stop_token_ids)

    @staticmethod
    def _seeds(seed, rows):
        if seed is None:
            seed = int(np.random.default_rng().integers(2**32))
        # Far apart, so that (seed, row 1) is not (seed + 1, row 0).
        return [(seed + 0x9E3779B9 * i) % 2**32 for i in range(len(rows))]

    def _prompt_limit(self, max_new_tokens):
        limit = self.preprocessor.sequence_length - max_new_tokens
        if limit < 16:
            raise ValueError(
                f"max_new_tokens={max_new_tokens} leaves {limit} of the context of "
                f"{self.preprocessor.sequence_length} tokens for the prompt; at least 16 "
                "are needed. Ask for fewer new tokens."
            )
        return limit

    def _new_tokens(self, prompt_length, max_length, max_new_tokens):
        """How many tokens a prompt of `prompt_length` may grow by."""
        limit = max_length or self.preprocessor.sequence_length
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

    def _generate_ids(self, inputs, stops, sampling, seed, strip_prompt):
        """`generate` on `{"token_ids", "padding_mask"}`, each `[B, max_length]`."""
        token_ids = np.array(ops.convert_to_numpy(inputs["token_ids"]))
        mask = ops.convert_to_numpy(inputs["padding_mask"]).astype(bool)
        lengths = mask.sum(axis=1)
        prompts = [row[:n].tolist() for row, n in zip(token_ids, lengths, strict=True)]
        width = token_ids.shape[1]
        budget = int(width - lengths.min(initial=width))
        results = self.engine.generate(
            prompts, budget, stops, sampling, self._seeds(seed, prompts)
        )
        out_ids = np.zeros_like(token_ids)
        out_mask = np.zeros_like(mask)
        for i, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
            new = list(result.token_ids)
            if result.stop_token is not None:
                new.append(result.stop_token)
            row = new if strip_prompt else (prompt + new)
            row = row[: width - (len(prompt) if strip_prompt else 0)]
            out_ids[i, : len(row)] = row
            out_mask[i, : len(row)] = True
        return {"token_ids": out_ids, "padding_mask": out_mask}

    # Samplers of other kinds (beam search, contrastive search, a user's own)

    def _generate_with_keras_hub(
        self, inputs, max_length, max_new_tokens, stop_token_ids, strip_prompt
    ):
        if max_new_tokens is not None and max_length is None and self.preprocessor:
            texts = [inputs] if isinstance(inputs, str) else list(inputs)
            longest = max(len(self._raw_prompt(text)) for text in texts)
            max_length = longest + max_new_tokens
        if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
            stop_token_ids = list(self._stop_token_ids("auto"))
        return super().generate(
            inputs,
            max_length=max_length,
            stop_token_ids=stop_token_ids,
            strip_prompt=strip_prompt,
        )

    def generate_step(self, inputs, stop_token_ids=None):
        """KerasHub's contract for samplers that drive the loop themselves."""
        token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]
        lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=-1)
        cache = self.backbone.empty_cache(*ops.shape(token_ids))
        hidden, cache = self.backbone.forward(token_ids, cache=cache, cache_index=0)

        def next_token(prompt, cache, index):
            token = ops.slice(prompt, [0, index - 1], [ops.shape(prompt)[0], 1])
            hidden, cache = self.backbone.forward(
                token, cache=cache, cache_index=index - 1
            )
            return self.backbone.logits(hidden)[:, 0], hidden[:, 0], cache

        token_ids = self.sampler(
            next=next_token,
            prompt=token_ids,
            cache=cache,
            index=ops.min(lengths),
            mask=padding_mask,
            stop_token_ids=stop_token_ids,
            hidden_states=hidden,
            model=self,
        )
        return {
            "token_ids": token_ids,
            "padding_mask": stopping.output_mask(
                token_ids, padding_mask, stop_token_ids
            ),
        }
