"""What `compile`, `fit` and `evaluate` of `CodeGemmaCausalLM` add to KerasHub's.

Defaults that learn at every dtype, rows in memory that are shuffled anew in every epoch,
and steps without logits `[B, T, V]`: inside a step the model's call gives hidden states,
and `losses` makes loss and metrics of them in chunks. The recipes' own loop is in
`training`, and its steps are these.
"""

import keras
import keras_hub

from codegemma_keras import losses, optimizers, platforms
from codegemma_keras.in_memory import Batches, in_memory, split, unpack


class FittedCausalLM(keras_hub.models.CausalLM):
    """The part of `CodeGemmaCausalLM` that trains; its constructor is there."""

    _token_metrics = None  # `losses.TokenMetrics` once compiled with our loss
    _loss_of_hidden = None  # or the `losses.LossOfHidden`
    _version = None  # of the backbone that Keras's compiled steps are of

    def call(self, inputs, training=None, mask=None):
        del mask  # Keras's implicit masks; ours is `padding_mask`.
        hidden = self.backbone(inputs, training=training)
        if losses.wants_hidden_states(self):
            return hidden
        return self.backbone.logits(hidden)

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
        """As `keras_hub.models.CausalLM.compile`, but for these defaults.

        The optimizer of weights in bfloat16 is `optimizers.Float32Adam`; with float16
        activations, the loss is scaled (`keras.optimizers.LossScaleOptimizer`).
        The sampler is greedy. `loss="auto"` is `losses.NextTokenLoss()`: the mean over
        the sample weights, computed without logits; give an instance to set its
        options. With it, `weighted_metrics="auto"` is accuracy and perplexity from the
        same pass. A `losses.LossOfHidden` is given hidden states, and targets of any
        structure. Any other loss or metric of yours is given logits `[B, T, V]`.
        `jit_compile="auto"` is False for TensorFlow on a CPU: XLA computes the matrix
        products of a loop on one core there (and has no bfloat16 instructions).
        """
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = "auto" if platforms.platform() != "cpu" else False
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = optimizers.default(self.trainable_variables)
        if isinstance(loss, str) and loss == "auto":
            loss = losses.NextTokenLoss()
        automatic = isinstance(weighted_metrics, str) and weighted_metrics == "auto"
        self._token_metrics = self._loss_of_hidden = None
        if isinstance(loss, losses.LossOfHidden):
            # Keras would want logits for a loss of its own.
            self._loss_of_hidden, loss, weighted_metrics = loss, None, []
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
        if self._loss_of_hidden is not None:
            self.loss = self._compile_loss = None  # Keras keeps those of before
        # Keras scales the loss of mixed_float16 only; an adapter on a float16 base
        # needs it as much.
        scale = kwargs.get("auto_scale_loss", True)
        scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        if scale and not scaled and self.backbone.compute_dtype == "float16":
            self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        if self._token_metrics and self._token_metrics.shown:
            config["weighted_metrics"] = "auto"
        return {**config, "optimizer_built": bool(self.optimizer.built)}

    def compile_from_config(self, config):
        config = dict(config)
        # Keras expects of a file the variables that the optimizer has here.
        built = config.pop("optimizer_built", True)
        self.compile(**keras.saving.deserialize_keras_object(config))
        if built:
            self.optimizer.build(self.trainable_variables)

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
        """Train as `keras_hub.models.CausalLM.fit` does, and shuffle texts and arrays.

        Texts and arrays in memory are shuffled again in every epoch, as in Keras, unless
        you pass `shuffle=False`. A dataset (grain, tf.data) keeps its own order. If
        `validation_data` is a dataset, `x` keeps its order as well.

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
        # `fit` evaluates so, and older releases of KerasHub would unpack the batches.
        if isinstance(x, Batches):
            return keras.Model.evaluate(self, x, **kwargs)
        if not in_memory(x):
            return super().evaluate(x, y, batch_size, sample_weight, **kwargs)
        data = ([x] if isinstance(x, str) else x), y, sample_weight
        batches = Batches(self, data, batch_size)
        return keras.Model.evaluate(self, batches, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """As `keras.Model.train_on_batch`: loss and metrics of this batch alone."""
        self.reset_metrics()  # Older releases of Keras give means over all batches so far.
        return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        """As `keras.Model.test_on_batch`: loss and metrics of this batch alone."""
        self.reset_metrics()
        return super().test_on_batch(*args, **kwargs)

    def _build_preprocessor(self):
        """Build the preprocessor, also one that was taken away, which Keras keeps as a layer.

        On JAX, Keras traces the whole network again at every batch while a layer is not
        built (benchmarks/traced_steps.py).
        """
        for layer in self._flatten_layers(include_self=False, recursive=False):
            if not isinstance(layer, keras_hub.models.Preprocessor):
                continue
            if not layer.built:
                layer.build(None)
            for part in layer._flatten_layers(include_self=False):
                part.built = True  # its packers, which have no weights

    # Keras keeps compiled steps, which hold the adapter that was active then.

    def make_train_function(self, force=False):
        self._build_preprocessor()
        optimizers.check(self.optimizer, self.trainable_variables)
        force = force or self._network_changed()
        options = platforms.compiler_options(keras.distribution.distribution())
        if not options or self.run_eagerly or not self.jit_compile:
            return super().make_train_function(force)
        if force or self.train_function is None:
            import jax

            # Keras's own, but that compiles without options.
            step = jax.jit(
                self.train_step,
                donate_argnums=0,
                out_shardings=(None, self._get_state_sharding_spec()),
                compiler_options=options,
            )
            self.train_function = self._make_function(step)

    def make_test_function(self, force=False):
        self._build_preprocessor()
        return super().make_test_function(force or self._network_changed())

    def make_predict_function(self, force=False):
        return super().make_predict_function(force or self._network_changed())

    def make_generate_function(self):
        self._network_changed()
        return super().make_generate_function()

    def _network_changed(self):
        """Forget every compiled step if the network is not the one they are of."""
        if self._version == self.backbone.version:
            return False
        self._version = self.backbone.version
        self.train_function = self.test_function = self.predict_function = None
        self.generate_function = None
        return True

    # Training without logits: Keras's hooks; the work is done in `losses`.

    def train_step(self, *args):
        with losses.hidden_states_only(self, self._wants_hidden()):
            return super().train_step(*args)

    def test_step(self, *args):
        with losses.hidden_states_only(self, self._wants_hidden()):
            return super().test_step(*args)

    def _wants_hidden(self):
        return self._token_metrics is not None or self._loss_of_hidden is not None

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if not losses.wants_hidden_states(self):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if self._loss_of_hidden is not None:
            return self._loss_of_hidden.of(self, y, y_pred)
        return losses.model_loss(self, y, y_pred, sample_weight, training)

    @property
    def metrics(self):
        ours = self._token_metrics or self._loss_of_hidden
        return super().metrics + (list(ours.shown) if ours else [])
