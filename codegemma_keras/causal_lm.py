"""`CodeGemmaCausalLM`: the network with its head, preprocessing and decoding.

KerasHub's `CausalLM` in its meaning (`fit`, `generate`, `compile(sampler=...)`,
`from_preset`, `enable_lora` on the backbone, `quantize`), plus what a code model is for:
`infill`, `complete`, `alternatives`, `stream`, `session`, `chat` and `score`. The work
is done in `decoding`, and training's in `fitting`; here is what the arguments mean.
"""

import functools
import threading

import keras
from keras import ops
from keras_hub.src.utils.python_utils import classproperty

from codegemma_keras import export, presets
from codegemma_keras.backbone import CodeGemmaBackbone, quantizing
from codegemma_keras.decoding import (
    Completion,
    Conversation,
    Engine,
    RawText,
    Request,
    Sampling,
    Session,
    TokenIds,
    answering,
    compilation,
    generate,
)
from codegemma_keras.decoding.request import at_cursor
from codegemma_keras.decoding.sampling import generate_step as keras_hub_step
from codegemma_keras.decoding.signatures import takes_options
from codegemma_keras.fitting import FittedCausalLM
from codegemma_keras.formats.keras_hub import save_task
from codegemma_keras.preprocessor import CodeGemmaCausalLMPreprocessor

# Threads that share a model must get one engine. Not an attribute: models are copied.
_making_engines = threading.Lock()


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaCausalLM(FittedCausalLM):
    """CodeGemma for completion, fill-in-the-middle and chat.

    Args:
        backbone: a `CodeGemmaBackbone`.
        preprocessor: a `CodeGemmaCausalLMPreprocessor`, or None to work on token ids.
            Its `sequence_length` is the context, and no prompt may be longer.

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
        self._version = backbone.version
        inputs = backbone.input
        super().__init__(
            inputs=inputs,
            outputs=backbone.token_embedding(backbone(inputs), reverse=True),
            **kwargs,
        )

    @property
    def input_spec(self):
        return None  # as in the backbone: optional inputs need not be given

    @classproperty
    def presets(cls):
        """Presets that `from_preset` knows by name, as in KerasHub."""
        return presets.listing()

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        """Load a model by name, handle or folder.

        Args:
            preset: a name (`presets.PRESETS`), `kaggle://...`, `hf://...` (Keras or
                Transformers format), or a local folder in either format.
            load_weights: bool. False gives random weights.
            dtype: dtype or policy of the weights, for example `"bfloat16"`. The default
                is Keras's own, as in KerasHub. `"auto"` is the dtype in which the files
                are stored.
            **kwargs: passed to the constructor (`preprocessor=None`, ...).

        Raises:
            ValueError, OSError: the preset is unknown, damaged or not accessible. The
                message says what to do.

        Examples:
            >>> lm = CodeGemmaCausalLM.from_preset(
            ...     "code_gemma_tiny_py", dtype="bfloat16"
            ... )
            >>> lm.backbone.num_layers
            5
        """
        opened = presets.Preset(preset)
        return opened.task(cls, load_weights, dtype, **kwargs)

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Save as a KerasHub preset folder (shards of `max_shard_size` GB).

        Examples:
            >>> lm.save_to_preset("mine")
            >>> CodeGemmaCausalLM.from_preset("mine").backbone.num_layers
            5
        """
        save_task(self, preset_dir, max_shard_size)

    def export(
        self, path, format="transformers", quantization=None, verbose=True, **options
    ):
        """Write the model in a format that other programs read.

        Args:
            path: a folder that does not exist yet, or for `"gguf"` a file `NAME.gguf`.
            format: `"transformers"` (Transformers, vLLM, TGI, MLX), `"gguf"` (llama.cpp,
                LM Studio), `"ollama"` (a folder with GGUF and Modelfile) or `"peft"`
                (a folder with the active adapter alone). Any other is
                `keras.Model.export`'s (`"tf_saved_model"`, `"onnx"`, ...).
            quantization: for `"transformers"` `"float32"`, `"bfloat16"` or `"float16"`;
                for `"gguf"` and `"ollama"` one of `export.quantization.TYPES`, such as
                `"Q8_0"`. The default is the dtype of the weights.
            verbose: bool, whether to show the progress.
            **options: of `export.write_task`: `chat`, `card`, `licence`.

        Raises:
            ValueError: an option that the format does not have, no tokenizer.
            FileExistsError: something stands at `path`. OSError: the disk is full.

        Examples:
            >>> import os
            >>> lm.export(
            ...     "mine.gguf", format="gguf", quantization="Q8_0", verbose=False
            ... )
            >>> os.path.getsize("mine.gguf") > 1_000_000
            True
        """
        if format not in (*export.FORMATS, "peft"):
            super().export(path, format=format, verbose=verbose, **options)
            return
        export.write_task(self, path, format, quantization, verbose, **options)

    def export_to_transformers(self, path):
        """Write a folder that Transformers reads, with the tokenizer; as KerasHub's.

        Other files that the folder holds stay. `export` writes a model card, too.

        Examples:
            >>> import os
            >>> lm.export_to_transformers("exported")
            >>> {"config.json", "tokenizer.json"} <= set(os.listdir("exported"))
            True
        """
        export.transformers.update(export.of_task(self), path)

    def quantize(self, *args, **kwargs):
        """As `keras.Model.quantize`, for example `quantize("int8")` or `("int4")`.

        Examples:
            >>> small = CodeGemmaCausalLM.from_preset("code_gemma_tiny_py")
            >>> small.quantize("int8")
            >>> small.backbone.count_params() == lm.backbone.count_params()
            False
        """
        with quantizing():
            super().quantize(*args, **kwargs)
        self.backbone.changed()

    # Decoding

    @property
    def tokenizer(self):
        """The tokenizer of the preprocessor."""
        if self.preprocessor is None:
            raise ValueError(
                "This model has no preprocessor, so it works on token ids only. Set "
                "`lm.preprocessor` or load it with `from_preset`."
            )
        tokenizer = self.preprocessor.tokenizer
        if tokenizer.proto is not None:
            # An embedding may have more rows than there are pieces.
            tokenizer.codec.allow_ids(self.backbone.vocabulary_size)
        return tokenizer

    @property
    def engine(self) -> Engine:
        """The decode engine over the present variables."""
        # LoRA and quantisation replace variables, and compiled programs name them.
        with _making_engines:
            if self._engine is None or not self._engine.is_of(self):
                self._engine = Engine(self)
            return self._engine

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
        speculate=False,
    ):
        """Continue prompts, as `keras_hub.models.CausalLM.generate` does.

        Prompts are *raw*: a control string in them, such as `<|fim_prefix|>`, becomes
        the control token. For text that a user wrote, use `infill`, `complete` or
        `chat`, in which it cannot.

        Args:
            inputs: a string, several (a list, an array, a tensor, a `tf.data.Dataset`
                of strings or batches of them; bytes are UTF-8), or token ids: a
                dictionary of `token_ids` and `padding_mask`, each `[B, T]`, or a
                `tf.data.Dataset` of such batches. T is the longest result.
            max_length: int, the most tokens of prompt and answer together, including
                bos. The default is the preprocessor's `sequence_length`.
            stop_token_ids: `"auto"` (eos, the FIM sentinels and `<end_of_turn>`), a
                sequence of ids, or None to go on until the length is reached.
            strip_prompt: bool, whether to return only the new text.
            max_new_tokens: int, the most new tokens for each prompt.
            stop_strings: the text ends before the first of these to be complete.
            sampling: a `Sampling`. The default is that of the compiled sampler.
            seed: int. Each prompt of a batch draws from the seed and its index. The
                default is the seed of the compiled sampler. If it has none, a seed comes
                from Python's generator, which `keras.utils.set_random_seed` sets.
            speculate: True or a draft model; see `decoding.Request`.

        Returns:
            Strings (one if one was given), or a dictionary with the same keys.

        Raises:
            TypeError: inputs that are neither text nor token ids.
            ValueError: a prompt does not fit; wrong ids; an option that the compiled
                sampler has no use for.

        Examples:
            >>> text = lm.generate("import numpy as ", max_new_tokens=4)
            >>> text.startswith("import numpy as ")
            True
            >>> len(
            ...     lm.generate(
            ...         ["import ", "def "], max_new_tokens=2, strip_prompt=True
            ...     )
            ... )
            2
        """
        request = Request(
            prompt=RawText(""),
            max_new_tokens=max_new_tokens,
            stop_strings=stop_strings,
            stop_token_ids=stop_token_ids,
            sampling=sampling,
            seed=seed,
            speculate=speculate,
        )
        sampler = None
        if sampling is None and Sampling.from_keras_hub(self.sampler) is None:
            # Beam search, contrastive search, a user's own: they drive the loop.
            stops = generate.stop_ids(self, request) or None
            sampler = functools.partial(
                self.make_generate_function(), stop_token_ids=stops
            )
        return generate.generate(
            self, inputs, request, max_length, strip_prompt, sampler
        )

    def generate_step(self, inputs, stop_token_ids=None):
        """KerasHub's contract for samplers that drive the loop themselves."""
        return keras_hub_step(self, inputs, stop_token_ids)

    @takes_options
    def infill(self, prefix, suffix="", **options) -> str:
        r"""The text that belongs between `prefix` and `suffix`.

        The arguments are those of `complete`, which also says why the text ended.

        Examples:
            >>> middle = lm.infill(
            ...     "def mean(values):\n    return ",
            ...     " / len(values)\n",
            ...     max_new_tokens=8,
            ... )
            >>> isinstance(middle, str)
            True
        """
        return self.complete(prefix, suffix, **options).text

    @takes_options
    def complete(self, prefix, suffix="", **options) -> Completion:
        r"""Write the text between `prefix` and `suffix`, and say how it ended.

        Text that is too long for the context is cut, beginning with what is farthest
        from the cursor (`fim.shrink`). Control strings in your text stay plain text. The
        result is the model's own text, unless `tidy=True` fits it in between prefix and
        suffix.

        Args:
            prefix: str, the text before the cursor; may be empty.
            suffix: str, the text after the cursor; may be empty.
            path: str, the file's path in its repository; recommended.
            context: `(path, text)` pairs of other files, the most related last.
            max_new_tokens: int, the most tokens that the completion may have.
            until: `"line"` ends the completion at the end of the line, `"statement"` at
                the end of the statement, and `"block"` where the cursor's indented block
                ends.
            stop_strings: the completion ends before the first of these strings.
            tidy: bool. Fit the completion in between prefix and suffix, so that nothing
                that stands there is repeated.
            sampling: a `Sampling`. The default is that of the compiled sampler, which
                is greedy.
            seed: int. Makes sampling repeatable.
            **options: all others, `mode`, `stop_at_suffix`, `time_limit_ms`,
                `cancelled` and `speculate`, as in `decoding.Cursor` and
                `decoding.Request`.

        Returns:
            A `Completion`.

        Raises:
            TypeError: an option is unknown, or its value has the wrong type.
            ValueError: there is no room for a prompt, an option is out of range, the
                sampler looks at more than one token, or the draft model has another
                vocabulary.

        Examples:
            >>> completion = lm.complete(
            ...     prefix="def mean(values):\n    return ",
            ...     suffix=" / len(values)\n",
            ...     path="stats.py",
            ...     context=[("table.py", "import csv\n")],
            ...     max_new_tokens=8,
            ...     until="line",
            ... )
            >>> "\n" in completion.text
            False
            >>> completion.stop_reason in ("stop_token", "line", "max_new_tokens")
            True
        """
        return answering.complete(self, at_cursor(prefix, suffix, options))

    @takes_options
    def alternatives(self, prefix, suffix="", *, n=3, **options) -> list[Completion]:
        """Return several completions of one prompt, which is computed only once.

        Args:
            n: int, the number of completions. They differ only if `sampling` is not
                greedy. A warning says so where no `sampling` is given and the compiled
                sampler is greedy.
            prefix, suffix, **options: as for `complete`.

        Returns:
            A list of n `Completion`s. The first is what `complete` returns with the
            same seed.

        Examples:
            >>> drawn = Sampling(temperature=1.0)
            >>> found = lm.alternatives(
            ...     "x = ", n=2, sampling=drawn, seed=7, max_new_tokens=4
            ... )
            >>> len(found)
            2
        """
        request = at_cursor(prefix, suffix, options)
        return answering.alternatives(self, request, n)

    @takes_options
    def stream(self, prefix, suffix="", **options):
        r"""Yield the text of `complete` piece by piece. The arguments are the same.

        Yields:
            Strings of whole characters, as soon as no stop can remove them again. If you
            leave the loop, the work ends, and at most a few tokens are lost.

        Examples:
            >>> pieces = lm.stream("def add(a, b):\n    return ", max_new_tokens=8)
            >>> text = "".join(pieces)  # or print each as it comes
        """
        return answering.stream(self, at_cursor(prefix, suffix, options))

    def session(self, layout=None) -> Session:
        r"""Open a `decoding.Session`, whose completions reuse what earlier ones computed.

        Examples:
            >>> session = lm.session()
            >>> first = session.complete(
            ...     "def add(a, b):\n    return a", max_new_tokens=4
            ... )
            >>> second = session.complete(
            ...     "def add(a, b):\n    return a +", max_new_tokens=4
            ... )
            >>> second.computed_tokens < first.computed_tokens
            True
        """
        return Session(self, layout)

    def chat(
        self,
        messages,
        *,
        max_new_tokens=512,
        stop_strings=(),
        time_limit_ms=None,
        cancelled=None,
        sampling=None,
        seed=None,
        speculate=False,
    ) -> str | list[str]:
        """Return the model's answer to a conversation, or to each of several.

        Args:
            messages: `[{"role": "user" | "model", "content": str}, ...]`, which must end
                with a message of the user; or a string, which is one user message. A
                list of such conversations is answered in one batch.
            max_new_tokens: int, the most tokens of the answer. It has fewer if the
                context has less room.
            stop_strings, time_limit_ms, cancelled, sampling, seed, speculate: as in
                `complete`.

        Returns:
            The answer, without control tokens; a list of answers if `messages` is a list
            of conversations.

        Raises:
            ValueError: the roles do not alternate, or a conversation does not fit.

        Examples:
            >>> instruct = CodeGemmaCausalLM.from_preset("code_gemma_tiny_instruct_py")
            >>> answer = instruct.chat(
            ...     "Write a function that adds two numbers.", max_new_tokens=8
            ... )
            >>> isinstance(answer, str)
            True
            >>> len(
            ...     instruct.chat(
            ...         ["Add two numbers.", "Sort a list."], max_new_tokens=8
            ...     )
            ... )
            2
        """
        several = Conversation.are_several(messages)
        conversations = messages if several else [messages]
        asked = [
            Request(
                prompt=Conversation(conversation),
                max_new_tokens=max_new_tokens,
                stop_strings=stop_strings,
                time_limit_ms=time_limit_ms,
                cancelled=cancelled,
                sampling=sampling,
                seed=seed,
                speculate=speculate,
            )
            for conversation in conversations
        ]
        texts = [answer.text for answer in answering.complete_all(self, asked)]
        return texts if several else texts[0]

    def log_probabilities(self, texts, *, batch_size=8):
        """Compute the log-probability of each token, given the tokens before it.

        Args:
            texts: strings (raw prompts, as in `generate`), or lists of token ids, bos
                included.
            batch_size: int, the number of texts at once. They need memory for their
                hidden states, and never for logits `[B, T, V]`.

        Returns:
            For each text a float32 array, as long as its tokens with bos; its first
            element, which nothing predicts, is 0.

        Examples:
            >>> [likely, unlikely] = [
            ...     values.sum()
            ...     for values in lm.log_probabilities(["import os", "import @@"])
            ... ]
            >>> bool(likely > unlikely)
            True
        """
        if isinstance(texts, str):
            raise TypeError(
                "log_probabilities() takes a list of texts; got one string."
            )
        prompts = [
            answering.prompt_ids(
                self, RawText(t) if isinstance(t, str) else TokenIds(t)
            )
            for t in texts
        ]
        return self.engine.log_probabilities(prompts, batch_size)

    def score(
        self,
        token_ids,
        padding_mask=None,
        scoring_mode="logits",
        layer_intercept_fn=None,
        target_ids=None,
    ):
        """Score token ids, as `keras_hub.models.GemmaCausalLM.score` does.

        For texts, use `log_probabilities`.

        Args:
            token_ids: int `[B, T]`.
            padding_mask: `[B, T]`. By default every token counts.
            scoring_mode: `"logits"`, or `"loss"`: the cross-entropy of `target_ids`.
            layer_intercept_fn: `(x, layer) -> x`, called with the embeddings (layer -1)
                and with the output `[B, T, D]` of each layer; what it returns goes on.
            target_ids: int `[B, T]`, for `"loss"`.

        Returns:
            Logits `[B, T, V]` or losses `[B, T]`, a tensor.

        Examples:
            >>> ids = [[2, *lm.tokenizer.encode("import os")]]
            >>> tuple(lm.score(ids).shape) == (
            ...     1,
            ...     len(ids[0]),
            ...     lm.backbone.vocabulary_size,
            ... )
            True
        """
        if isinstance(token_ids, (list, tuple)) and token_ids:
            if isinstance(token_ids[0], str):
                raise TypeError(
                    "score() takes token ids, as in KerasHub. The log-probabilities of "
                    "texts are log_probabilities()'s."
                )
        if scoring_mode not in ("logits", "loss"):
            raise ValueError(f"scoring_mode={scoring_mode!r}: give 'logits' or 'loss'.")
        if scoring_mode == "loss" and target_ids is None:
            raise ValueError("scoring_mode='loss' needs target_ids.")
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        if padding_mask is not None:
            padding_mask = ops.convert_to_tensor(padding_mask)
        hidden = self.backbone.forward(
            token_ids, padding_mask, after_layer=layer_intercept_fn
        )
        logits = self.backbone.logits(hidden)
        if scoring_mode == "logits":
            return logits
        target_ids = ops.convert_to_tensor(target_ids, "int32")
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="none"
        )(target_ids, logits)

    def warm_up(
        self,
        max_length=None,
        *,
        batch_sizes=(1,),
        sampling=None,
        speculate=False,
        joining=False,
        prompts=None,
        pause=None,
        compiled_folder=None,
    ) -> int:
        """Compile programs ahead of time, so that no request has to wait for one.

        Other threads may use the model meanwhile.

        Args:
            max_length: the most tokens of prompt and answer together. The default is the
                preprocessor's `sequence_length`.
            batch_sizes: the numbers of prompts at once.
            sampling: a `Sampling`, or one for each kind that will be used (greedy,
                drawn, with top-k, with top-p). The default is that of the compiled
                sampler.
            speculate: True or a draft model, if requests will use it.
            joining: bool, whether rows will join a running `decoding.Generation`.
            prompts: the most different prompts that are read at once. The default is
                the number of rows. Rows that join one by one need 1.
            pause: a function without arguments that is called before each program. It
                may wait, for example until no request is running.
            compiled_folder: a folder that keeps the compiled programs for later
                processes that name it (JAX only).

        Returns:
            The number of programs that were compiled.

        Examples:
            >>> compiled = lm.warm_up(max_length=64)
            >>> lm.warm_up(max_length=64)  # nothing is left to compile
            0
        """
        if compiled_folder is not None:
            compilation.keep_compiled(compiled_folder)
        if sampling is None:
            sampling = Sampling.from_keras_hub(self.sampler) or Sampling()
        if isinstance(sampling, Sampling):
            sampling = (sampling,)
        return self.engine.warm_up(
            max_length or self.preprocessor.sequence_length,
            batch_sizes,
            tuple(sampling),
            speculate,
            joining,
            prompts,
            pause,
        )
