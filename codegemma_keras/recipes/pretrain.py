"""Pretrain a small CodeGemma from nothing: the recipe of `code_gemma_tiny_py`.

Tokenizer, fill-in-the-middle at rate 0.9 (PSM and SPM half and half), packing, a
warm-up-stable-decay schedule, held-out evaluation, model card. It runs on two CPU cores
(TensorFlow trains about three times faster there than JAX) and on anything larger.

    python -m codegemma_keras.recipes.pretrain --out runs/tiny
    python -m codegemma_keras.recipes.pretrain --out runs/twin --fim-rate 0 \\
        --tokenizer runs/tiny/tokenizer.spm

Killed at any moment, the same command goes on from the last checkpoint. Left out: data
from repositories (`codegemma data build`), more than one device, LoRA.
"""

import argparse
import dataclasses
import json
import pathlib
import time

import keras
import numpy as np

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, CodeGemmaTokenizer
from codegemma_keras.data.packing import pack_documents
from codegemma_keras.losses import NextTokenLoss
from codegemma_keras.preprocessor import (
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaFIMPreprocessor,
)
from codegemma_keras.recipes import corpus
from codegemma_keras.tokenizer_training import train_tokenizer

SAVE_EVERY = 100  # steps
LOG_EVERY = 20  # steps; divides SAVE_EVERY
HEADER = "step,tokens,loss,tokens_per_second"


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Every knob of the recipe, with its unit.

    The defaults are those of the embedded preset.
    """

    out: str = "runs/tiny"
    # Data: packages whose licence permits it; the last four are never trained on.
    packages: tuple[str, ...] = (
        "stdlib",
        "tensorflow",
        "jax",
        "scipy",
        "keras",
        "keras_hub",
        "numpy",
        "matplotlib",
        "sympy",
    )
    held_out: tuple[str, ...] = ("networkx", "rich", "requests", "h5py")
    tokenizer: str | None = None  # a .spm file; None trains one on `packages`
    vocabulary_size: int = 8192  # pieces; about 3.5 bytes of Python each
    # Model: Gemma 1 with one key/value head, as the 2B.
    num_layers: int = 5
    hidden_dim: int = 256
    intermediate_dim: int = 1024  # 2F
    num_query_heads: int = 4
    head_dim: int = 64
    # Training
    sequence_length: int = 512  # tokens a row; attention is a fifth of the work here
    tokens: int = 12_000_000  # each seen once
    batch_size: int = 8  # rows
    dtype: str = "mixed_bfloat16"  # twice float32 where the CPU has the instructions
    optimizer: str = "muon"  # or "adamw"
    learning_rate: float = 4e-3  # peak
    warmup_steps: int = 48
    decay: float = 0.6  # share of the steps, at the end, linear to 0
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    fim_rate: float = 0.9
    spm_rate: float = 0.5
    span_lengths: str = "lines"  # see `fim.random_split`
    seed: int = 0


@keras.saving.register_keras_serializable(package="codegemma_keras")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, constant, linear decay to zero, by step."""

    def __init__(self, peak, steps, warmup_steps, decay):
        self.peak, self.steps = peak, steps
        self.warmup_steps, self.decay = warmup_steps, decay

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rise = (step + 1.0) / max(1.0, self.warmup_steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        share = keras.ops.minimum(1.0, keras.ops.minimum(rise, fall))
        return self.peak * keras.ops.maximum(share, 0.0)

    def get_config(self):
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
        }


def pieces(text, tokenizer, limit, rng):
    """Cut a file at line ends into pieces of `limit / 4` to `limit` tokens.

    Each piece is split for fill-in-the-middle by itself: shorter ones give more middles
    for the same tokens, longer ones more context.
    """
    piece, size, room = [], 0, rng.integers(limit // 4, limit + 1)
    for line in text.splitlines(keepends=True):
        length = len(tokenizer.encode(line))
        if piece and size + length > room:
            yield "".join(piece)
            piece, size, room = [], 0, rng.integers(limit // 4, limit + 1)
        piece.append(line)
        size += length
    if piece:
        yield "".join(piece)


def prepare(config: PretrainConfig):
    """Tokenizer and packed training rows; both are kept in `out` and reused."""
    out = pathlib.Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    files = list(corpus.python_files(config.packages))
    np.random.default_rng(config.seed).shuffle(files)
    spm = pathlib.Path(config.tokenizer or out / "tokenizer.spm")
    if not spm.exists():
        print(f"training a tokenizer of {config.vocabulary_size} pieces")
        texts = (text for _, text in files)
        spm.write_bytes(train_tokenizer(texts, config.vocabulary_size))
    tokenizer = CodeGemmaTokenizer(proto=str(spm))
    fim = CodeGemmaFIMPreprocessor(
        tokenizer,
        sequence_length=config.sequence_length,
        fim_rate=config.fim_rate,
        spm_rate=config.spm_rate,
        span_lengths=config.span_lengths,
        seed=config.seed,
    )
    stored = out / "rows.npz"
    if not stored.exists():
        documents, total = [], 0
        rng = np.random.default_rng(config.seed)
        for path, text in files:
            # 24 tokens: the path line, the sentinels, bos and eos.
            for piece in pieces(text, tokenizer, config.sequence_length - 24, rng):
                documents.append(fim.row(piece, path))
                total += len(documents[-1][0])
            if total > 1.02 * config.tokens:  # rows are packed to about 99 %
                break
        x, y, weight = pack_documents(documents, config.sequence_length)
        order = np.random.default_rng(config.seed + 1).permutation(len(y))
        x = {name: values[order] for name, values in x.items()}
        np.savez(stored, y=y[order], weight=weight[order], **x)
        print(f"{len(documents):,} pieces, {total:,} tokens, {len(y):,} rows")
    arrays = dict(np.load(stored))
    y, weight = arrays.pop("y"), arrays.pop("weight")
    return tokenizer, (arrays, y, weight)


def build(config: PretrainConfig, tokenizer) -> CodeGemmaCausalLM:
    """The model, with random weights or those of an earlier run."""
    keras.utils.set_random_seed(config.seed)
    backbone = CodeGemmaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=config.num_layers,
        num_query_heads=config.num_query_heads,
        num_key_value_heads=1,
        hidden_dim=config.hidden_dim,
        intermediate_dim=config.intermediate_dim,
        head_dim=config.head_dim,
        dtype=config.dtype,
    )
    preprocessor = CodeGemmaCausalLMPreprocessor(
        tokenizer, sequence_length=config.sequence_length
    )
    return CodeGemmaCausalLM(backbone, preprocessor)


def optimizer_of(config, steps):
    """Muon for the feed-forward matrices and AdamW for the rest, or AdamW for all.

    Keras scales Muon's updates to the size of AdamW's, so one rate serves both.
    """
    rate = WarmupStableDecay(
        config.learning_rate, steps, config.warmup_steps, config.decay
    )
    common = {"weight_decay": config.weight_decay, "global_clipnorm": config.clip_norm}
    if config.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, beta_2=0.95, **common)
    if config.optimizer != "muon":
        raise ValueError(f"optimizer={config.optimizer!r}: give 'muon' or 'adamw'.")
    return keras.optimizers.Muon(
        rate, adam_beta_2=0.95, adam_weight_decay=config.weight_decay, **common
    )


def train(config: PretrainConfig) -> CodeGemmaCausalLM:
    """Run the recipe; returns the trained model, also saved in `out/preset`."""
    out = pathlib.Path(config.out)
    tokenizer, (x, y, weight) = prepare(config)
    (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2))
    lm = build(config, tokenizer)
    steps = min(config.tokens // config.sequence_length, len(y)) // config.batch_size
    if not steps:
        raise ValueError(
            f"tokens={config.tokens} and {len(y)} rows of data do not fill one batch of "
            f"{config.batch_size} rows of {config.sequence_length} tokens."
        )
    lm.compile(
        optimizer=optimizer_of(config, steps),
        loss=NextTokenLoss(),
        weighted_metrics=[],
        # On a CPU, TensorFlow's own kernels know bfloat16 instructions; XLA's do not.
        jit_compile=keras.backend.backend() == "jax",
    )
    lm.optimizer.build(lm.trainable_variables)
    state = out / "state.weights.h5"  # weights, optimizer, and with it the step
    if state.exists():
        lm.load_weights(state)
    done = int(lm.optimizer.iterations)
    lm.preprocessor, preprocessor = None, lm.preprocessor  # rows are tokens already
    log = StepLog(out / "curve.csv", done, steps, config)
    while done < steps:
        chunk = min(SAVE_EVERY - done % SAVE_EVERY, steps - done)
        rows = slice(done * config.batch_size, (done + chunk) * config.batch_size)
        lm.fit(
            {name: values[rows] for name, values in x.items()},
            y[rows],
            sample_weight=weight[rows],
            batch_size=config.batch_size,
            shuffle=False,  # shuffled once, so a resumed run sees the same order
            callbacks=[log],
            verbose=0,
        )
        done += chunk
        lm.save_weights(out / "new.weights.h5")
        (out / "new.weights.h5").replace(state)  # at no moment half a file
    lm.preprocessor = preprocessor
    lm.save_to_preset(str(out / "preset"))
    return lm


class StepLog(keras.callbacks.Callback):
    """Mean loss of every `LOG_EVERY` steps into a CSV file and on the terminal."""

    def __init__(self, file, done, steps, config):
        super().__init__()
        self._file, self._step, self._steps = file, done, steps
        self._tokens = config.batch_size * config.sequence_length
        self._last = time.monotonic()
        lines = file.read_text().splitlines() if file.exists() else [HEADER]
        # What was logged after the state that we go on from will be logged again.
        kept = [line for line in lines[1:] if int(line.split(",")[0]) <= done]
        file.write_text("\n".join([HEADER, *kept]) + "\n")

    def on_epoch_begin(self, epoch, logs=None):
        self._sum = self._count = 0

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % LOG_EVERY and self._step != self._steps:
            return
        # Keras reports the mean since the start of this call of fit.
        total, count = logs["loss"] * (batch + 1), batch + 1
        loss = (total - self._sum) / (count - self._count)
        now = time.monotonic()
        rate = (count - self._count) * self._tokens / (now - self._last)
        self._sum, self._count, self._last = total, count, now
        tokens = self._step * self._tokens
        with self._file.open("a") as file:
            file.write(f"{self._step},{tokens},{loss:.4f},{rate:.0f}\n")
        minutes = (self._steps - self._step) * self._tokens / rate / 60
        print(
            f"step {self._step}/{self._steps}, loss {loss:.3f}, {rate:.0f} tokens/s, "
            f"{minutes:.0f} min left",
            flush=True,
        )


def main(argv=None):
    """Command line: each field of `PretrainConfig` is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(PretrainConfig):
        name = "--" + field.name.replace("_", "-")
        if isinstance(field.default, tuple):
            parser.add_argument(name, nargs="*", default=field.default)
        else:
            kind = str if field.default is None else type(field.default)
            parser.add_argument(name, type=kind, default=field.default)
    options = vars(parser.parse_args(argv))
    for name in ("packages", "held_out"):
        options[name] = tuple(options[name])
    train(PretrainConfig(**options))


if __name__ == "__main__":
    main()
