"""`CodeGemmaCausalLM`: the network with its head, preprocessing and decoding.

KerasHub's `CausalLM` in its meaning (`fit`, `generate`, `compile(sampler=...)`,
`from_preset`, `enable_lora` on the backbone, `quantize`), plus what a code model is for:
`infill`, `complete`, `alternatives`, `stream`, `session`, `chat` and `score`. The work
is done in `decoding`; here is what the arguments mean.
"""

import threading

import keras
import keras_hub
from keras_hub.src.utils.python_utils import classproperty

from codegemma_keras import chat, losses, presets
from codegemma_keras.backbone import CodeGemmaBackbone, quiet_quantization
from codegemma_keras.decoding import (
    Completion,
    Engine,
    Sampling,
    Session,
    keras_hub_samplers,
    programs,
    raw,
    request,
    scoring,
)
from codegemma_keras.decoding.text import Watch
from codegemma_keras.formats.keras_hub import save_task
from codegemma_keras.formats.transformers import save_transformers
from codegemma_keras.in_memory import Batches, in_memory, split, unpack
from codegemma_keras.preprocessor import CodeGemmaCausalLMPreprocessor

# Threads that share a model must get one engine. Not an attribute: models are copied.
_making_engines = threading.Lock()


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
        self._token_metrics = None
        inputs = backbone.input
        super().__init__(
            inputs=inputs,
            outputs=backbone.token_embedding(backbone(inputs), reverse=True),
            **kwargs,
        )

    def call(self, inputs, training=None, mask=None):
        del mask  # Keras's implicit masks; ours is `padding_mask`.
        hidden = self.backbone(inputs, training=training)
        if losses.wants_hidden_states(self):
            return hidden
        return self.backbone.logits(hidden)

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
        jit_compile="auto",
        **kwargs,
    ):
        """As `keras_hub.models.CausalLM.compile`, but for four defaults.

        The sampler is greedy. `loss="auto"` is `losses.NextTokenLoss()`: the mean over
        the sample weights, computed without logits; give an instance to set its
        options. With it, `weighted_metrics="auto"` is accuracy and perplexity from the
        same pass. Any other loss or metric of yours is given logits `[B, T, V]`.
        `jit_compile="auto"` is False for TensorFlow on a CPU: XLA computes the matrix
        products of a loop on one core there (and has no bfloat16 instructions).
        """
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = "auto" if not programs.on_cpu() else False
        if isinstance(loss, str) and loss == "auto":
            loss = losses.NextTokenLoss()
        automatic = isinstance(weighted_metrics, str) and weighted_metrics == "auto"
        self._token_metrics = None
        if isinstance(loss, losses.NextTokenLoss) and not kwargs.get("metrics"):
            if automatic or not weighted_metrics:
                self._token_metrics = losses.TokenMetrics(shown=automatic)
                weighted_metrics = []
        super().compile(
            optimizer=optimizer,
            loss=loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            jit_compile=jit_compile,
            **kwargs,
        )

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
            dtype: dtype or policy of the weights, for example `"bfloat16"`; default
                Keras's own, as in KerasHub, whatever the files are stored at;
                `"auto"`: what they are stored at.
            **kwargs: passed to the constructor (`preprocessor=None`, ...).

        Raises:
            ValueError, OSError: one clear error that says what to do.
        """
        opened = presets.Preset(preset)
        return opened.task(cls, load_weights, dtype, **kwargs)

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Save as a KerasHub preset folder (shards of `max_shard_size` GB)."""
        save_task(self, preset_dir, max_shard_size)

    def export_to_transformers(self, path):
        """Write a folder that Transformers reads, LoRA merged, with the tokenizer."""
        if self.preprocessor is None:
            save_transformers(self.backbone, None, path)
            return
        context = self.preprocessor.sequence_length
        save_transformers(self.backbone, self.tokenizer, path, context=context)

    def quantize(self, *args, **kwargs):
        """As `keras.Model.quantize`, for example `quantize("int8")` or `("int4")`."""
        with quiet_quantization():
            super().quantize(*args, **kwargs)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        sample_weight=None,
        validation_data=None,
        validation_split=None,
        shuffle=None,
        **kwargs,
    ):
        """As `keras_hub.models.CausalLM.fit`, but texts and arrays are shuffled.

        Anew in every epoch, as Keras does it, unless `shuffle=False`. A dataset (grain,
        tf.data) has an order of its own; with one as `validation_data`, `x` keeps its
        order, too.

        Args:
            x: texts, or whatever the preprocessor takes; without a preprocessor a
                dictionary of arrays as docs/design.md defines them; or a dataset.
            **kwargs: as `keras.Model.fit`.

        Raises:
            ValueError: parts of different lengths, or nothing to train on.
        """
        held_out = validation_data
        if not in_memory(x) or not (held_out is None or in_memory(held_out)):
            return super().fit(
                x,
                y,
                batch_size,
                sample_weight,
                held_out,
                validation_split,
                shuffle=bool(shuffle),
                **kwargs,
            )
        data = ([x] if isinstance(x, str) else x), y, sample_weight
        if validation_split and held_out is None:
            data, held_out = split(data, validation_split)
        if held_out is not None:
            held_out = Batches(self, unpack(held_out), batch_size)
        train = Batches(self, data, batch_size, shuffle is not False, training=True)
        return keras.Model.fit(
            self, train, validation_data=held_out, shuffle=False, **kwargs
        )

    def evaluate(self, x=None, y=None, batch_size=None, sample_weight=None, **kwargs):
        """As `keras_hub.models.CausalLM.evaluate`."""
        if not in_memory(x):
            return super().evaluate(x, y, batch_size, sample_weight, **kwargs)
        data = ([x] if isinstance(x, str) else x), y, sample_weight
        batches = Batches(self, data, batch_size)
        return keras.Model.evaluate(self, batches, **kwargs)

    # Training without logits: Keras's hooks; the work is done in `losses`.

    def train_step(self, *args):
        with losses.hidden_states_only(self, self._token_metrics is not None):
            return super().train_step(*args)

    def test_step(self, *args):
        with losses.hidden_states_only(self, self._token_metrics is not None):
            return super().test_step(*args)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if not losses.wants_hidden_states(self):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        return losses.model_loss(self, y, y_pred, sample_weight, training)

    @property
    def metrics(self):
        ours = self._token_metrics.shown if self._token_metrics else []
        return super().metrics + ours

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
        with _making_engines:
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
        speculate=False,
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
            speculate: True or a draft model; see `decoding.Options`.

        Returns:
            Strings (one if one was given), or a dictionary with the same keys.

        Raises:
            ValueError: a prompt does not fit; wrong ids; no room for a new token.
        """
        if sampling is None and Sampling.from_keras_hub(self.sampler) is None:
            return self._generate_with_keras_hub(
                inputs, max_length, max_new_tokens, stop_token_ids, strip_prompt
            )
        how = raw.How(
            raw.stop_token_ids(self, stop_token_ids),
            request.sampling_of(self, sampling),
            seed,
            speculate,
            strip_prompt,
        )
        if isinstance(inputs, dict):
            return raw.generate_ids(self, inputs, how)
        return raw.generate(self, inputs, how, max_length, max_new_tokens, stop_strings)

    def infill(self, prefix, suffix="", **options) -> str:
        """The text that belongs between `prefix` and `suffix`: that of `complete`."""
        return self.complete(prefix, suffix, **options).text

    def complete(self, prefix, suffix="", **options) -> Completion:
        """Fill in the middle, with how it ended.

        Text that is too long for the context is cut, farthest from the cursor first
        (`fim.shrink`); control strings in it stay plain text.

        Args:
            prefix: str, the text before the cursor; may be empty.
            suffix: str, the text after the cursor; may be empty.
            **options: `path`, `context`, `max_new_tokens`, `mode`, `stop_strings`,
                `until`, `stop_at_suffix`, `time_limit_ms`, `cancelled`, `sampling`,
                `seed`, `speculate`: see `decoding.Options`.

        Returns:
            A `Completion`.

        Raises:
            ValueError: no room for a prompt; an empty stop string; a sampler that looks
                at more than one token; a draft model of another vocabulary.
        """
        return request.complete(self, prefix, suffix, **options)

    def alternatives(self, prefix, suffix="", *, n=3, **options) -> list[Completion]:
        """Several completions from one prefill.

        Args:
            n: int, how many. They differ only if `sampling` is not greedy.
            prefix, suffix, **options: as of `complete`.

        Returns:
            n `Completion`s; the first is what `complete` gives with the same seed.
        """
        return request.complete(self, prefix, suffix, n=n, **options)

    def stream(self, prefix, suffix="", **options):
        """The text of `complete`, piece by piece; arguments as of `complete`.

        Yields:
            Strings: whole characters, as soon as no stop can take them back. Leaving the
            loop ends the work: at most one visit of the device, a few tokens, is lost.
        """
        return request.stream(self, prefix, suffix, **options)

    def session(self, layout="line") -> Session:
        """A `decoding.Session`: completions that reuse what earlier ones computed."""
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
    ) -> str:
        """The model's answer to a conversation.

        Args:
            messages: `[{"role": "user" | "model", "content": str}, ...]`, ending with
                the user; or a string, one user message.
            max_new_tokens, stop_strings, time_limit_ms, cancelled, sampling, seed: as in
                `complete`.

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
        limit = raw.new_tokens(self, len(ids), None, max_new_tokens)
        how = raw.How(self.tokenizer.stop_token_ids, sampling, seed)
        watch = Watch.of(time_limit_ms, cancelled)
        [answer] = raw.texts(self, [ids], [limit], how, stop_strings, watch)
        return answer

    def score(self, texts, *, batch_size=8):
        """Log-probability of each token of texts, given those before it.

        Args:
            texts: strings (raw prompts, as in `generate`), or lists of token ids, bos
                included.
            batch_size: int, rows at once. Memory is that of their hidden states, never
                of logits `[B, T, V]`.

        Returns:
            For each text a float32 array, as long as its tokens with bos; its first
            element, which nothing predicts, is 0.
        """
        if isinstance(texts, str):
            raise TypeError("score() takes a list of texts; got one string.")
        prompts = [raw.prompt(self, t) if isinstance(t, str) else t for t in texts]
        return scoring.score(self.engine, prompts, batch_size)

    def warm_up(
        self,
        max_length=None,
        *,
        batch_sizes=(1,),
        sampling=None,
        speculate=False,
        compiled_folder=None,
    ) -> int:
        """Compile ahead, so that no request does.

        Args:
            max_length: tokens of prompt and answer together; default: the
                preprocessor's `sequence_length`.
            batch_sizes: prompts at once.
            sampling: a `Sampling` or several; default: as the compiled sampler.
            speculate: also for requests that speculate so: True, or the draft model.
            compiled_folder: keep compiled programs there, for every later process that
                names the same folder (JAX only).

        Returns:
            How many programs were compiled.
        """
        if compiled_folder is not None:
            programs.keep_compiled(compiled_folder)
        if sampling is None:
            sampling = Sampling.from_keras_hub(self.sampler) or Sampling()
        if isinstance(sampling, Sampling):
            sampling = (sampling,)
        return self.engine.warm_up(
            max_length or self.preprocessor.sequence_length,
            batch_sizes,
            tuple(sampling),
            speculate,
        )

    # Samplers of other kinds (beam search, contrastive search, a user's own)

    def _generate_with_keras_hub(
        self, inputs, max_length, max_new_tokens, stop_token_ids, strip_prompt
    ):
        if max_new_tokens is not None and max_length is None and self.preprocessor:
            texts = [inputs] if isinstance(inputs, str) else list(inputs)
            longest = max(len(raw.prompt(self, text)) for text in texts)
            max_length = longest + max_new_tokens
        if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
            stop_token_ids = list(raw.stop_token_ids(self, "auto"))
        return super().generate(
            inputs,
            max_length=max_length,
            stop_token_ids=stop_token_ids,
            strip_prompt=strip_prompt,
        )

    def generate_step(self, inputs, stop_token_ids=None):
        """KerasHub's contract for samplers that drive the loop themselves."""
        return keras_hub_samplers.generate_step(self, inputs, stop_token_ids)
