"""Pretraining, continued from a preset or from nothing, on packed rows of code.

Continued, on what `codegemma data build` made with the preset's tokenizer:

    python -m codegemma_keras.recipes.pretrain --data out --preset code_gemma_2b_en \\
        --batch-tokens 131072 --accumulation 4 --remat block --out runs/ours

All weights train; `--lora-rank 16` trains an adapter alone, `--quantize int8` over an
integer base. From nothing, the recipe of the embedded preset `code_gemma_tiny_py`: no
preset gives random weights, and no data the Python packages that are installed here.

    python -m codegemma_keras.recipes.pretrain --out runs/tiny
    python -m codegemma_keras.recipes.pretrain --out runs/twin --fim-rate 0 \\
        --tokenizer runs/tiny/tokenizer.spm

Killed at any moment, the same command goes on from the last checkpoint with the same
losses. In `out`: `config.json`, `curve.csv` and `curve.png`, `checkpoints/`, and at the
end `preset/` (or `adapter/` in PEFT's format).

Left out: mixing several data folders by weight (`data.load` can), and several hosts.
"""

import dataclasses
import hashlib
import json
import pathlib

import keras
import numpy as np

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaTokenizer,
    data,
    lora,
    sharding,
)
from codegemma_keras.batches import PackedBatch
from codegemma_keras.data.read import installed as corpus
from codegemma_keras.data.rows.examples import packed_files
from codegemma_keras.preprocessor import (
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaFIMPreprocessor,
)
from codegemma_keras.recipes import options
from codegemma_keras.tokenizer.training import train_tokenizer
from codegemma_keras.training import loop as training

ADAPTER = "pretrain"
TINY_LENGTH = 512  # tokens a row; attention is a fifth of the work here
TINY_TOKENS = 8_000_000


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Every knob of the recipe, with its unit.

    The defaults are those of the embedded preset; None is derived (see `resolved`).
    """

    out: str = "runs/tiny"
    # Data: a folder of `codegemma data build`, or None for installed packages.
    data: str | None = None
    held_out_data: str | None = None  # another such folder, to evaluate on
    # Packages whose licence permits it; the last four are never trained on.
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
    fim_rate: float = 0.9  # of packages; data are split already
    spm_rate: float = 0.5
    span_lengths: str = "lines"  # see `preprocessor.SPAN_LENGTHS`
    # Model: a preset to go on from; None for random weights of these sizes (Gemma 1
    # with one key/value head, as the 2B).
    preset: str | None = None
    num_layers: int = 5
    hidden_dim: int = 256
    intermediate_dim: int = 1024  # 2F
    num_query_heads: int = 4
    head_dim: int = 64
    dtype: str = "mixed_bfloat16"  # twice float32 where the CPU has the instructions
    # What of a preset trains
    lora_rank: int = 0  # 0 trains all weights
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    quantize: str | None = None  # "int8" or "int4": of the frozen base, with LoRA
    remat: str = "none"  # or "attention", "block": see CodeGemmaBackbone.remat
    mesh: str | None = None  # "data=8", "fsdp=2,model=4": see codegemma_keras.sharding
    # Batches
    sequence_length: int | None = (
        None  # tokens a row; of data, what they were built with
    )
    tokens: int | None = None  # of the run, padding included; None: all data once
    batch_tokens: int = 2048  # tokens an update, padding included
    accumulation: int = 1  # parts that an update's batch is computed in
    # Optimizer
    learning_rate: float | None = None  # peak
    schedule: str = "wsd"  # warm-up, constant, linear decay; or "cosine"
    warmup_steps: int = 48
    decay: float = 0.52  # share of the steps, at the end, linear to 0
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    z_loss: float = 0.0
    # Watching; all in steps. The first is a divisor of the two others.
    log_every: int = 20
    evaluate_every: int = 500  # 0: never
    save_every: int = 100
    keep: int = 2  # checkpoints
    held_out_rows: int = 64  # to evaluate on, at most
    patience: int = 0  # evaluations without a better one before it stops; 0: never
    peak_tflops: float | None = None  # of one device, for MFU; None: a data sheet's
    tensorboard: bool = False  # needs tensorboardX
    seed: int = 0


def resolved(config: PretrainConfig) -> PretrainConfig:
    """The settings with nothing left to derive.

    Rates: 2e-3 is what the embedded preset was trained with; 2e-5 for all weights of a
    preset and 2e-4 for an adapter are usual values, not measured here.

    Raises:
        ValueError, FileNotFoundError: settings and data do not fit together.
    """
    length = config.sequence_length
    if config.data:
        built = rows_in(config.data).about["length"]
        if length not in (None, built):
            raise ValueError(
                f"{config.data} holds rows of {built} tokens, and sequence_length is "
                f"{length}. Leave it out, or build the data with --length {length}."
            )
        length = built
    if not config.preset and (config.lora_rank or config.quantize):
        raise ValueError(
            "An adapter or a quantized base needs weights to stand on: set preset, or "
            "lora_rank=0 and no quantize."
        )
    if config.preset and not config.data and config.tokenizer:
        raise ValueError("preset has a tokenizer of its own: leave out tokenizer.")
    rate = (2e-4 if config.lora_rank else 2e-5) if config.preset else 2e-3
    return dataclasses.replace(
        config,
        sequence_length=length or TINY_LENGTH,
        tokens=config.tokens or (None if config.data else TINY_TOKENS),
        learning_rate=config.learning_rate or rate,
    )


def rows_in(folder):
    """The rows of a folder of `codegemma data build`, by index."""
    from codegemma_keras.data.rows.storage import Rows

    return Rows(folder)


def model_of(config: PretrainConfig, tokenizer) -> CodeGemmaCausalLM:
    """The model to start from: the preset, or random weights."""
    keras.utils.set_random_seed(config.seed)
    if config.preset:
        lm = CodeGemmaCausalLM.from_preset(config.preset, dtype=config.dtype)
        training.add_adapter(lm, config, ADAPTER)
        return lm
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


def tokenizer_of(config: PretrainConfig) -> CodeGemmaTokenizer:
    """The tokenizer of the preset or the data; else a file, or one trained on packages.

    Raises:
        ValueError: the data were built with another tokenizer than the preset's.
    """
    built = config.data and pathlib.Path(config.data) / "tokenizer.model"
    if config.preset:
        tokenizer = CodeGemmaTokenizer.from_preset(config.preset)
        if built and CodeGemmaTokenizer(proto=str(built)).proto != tokenizer.proto:
            raise ValueError(
                f"{config.data} was built with another tokenizer than that of "
                f"{config.preset}: its ids would mean other pieces. Build the data again "
                f"with --tokenizer {config.preset}."
            )
        return tokenizer
    if built:
        return CodeGemmaTokenizer(proto=str(built))
    spm = pathlib.Path(config.tokenizer or pathlib.Path(config.out) / "tokenizer.spm")
    if not spm.exists():
        print(f"training a tokenizer of {config.vocabulary_size} pieces")
        texts = (document.text for document in _shuffled(config))
        spm.write_bytes(train_tokenizer(texts, config.vocabulary_size))
    return CodeGemmaTokenizer(proto=str(spm))


def _shuffled(config):
    files = list(corpus.python_files(config.packages))
    np.random.default_rng(config.seed).shuffle(files)
    return files


class PackageRows:
    """Rows of installed packages, kept in `out` and reused: `rows.npz`, `held_out.npz`."""

    def __init__(self, config: PretrainConfig, tokenizer):
        self._config, self._tokenizer = config, tokenizer
        self._rows = self._stored(
            "rows.npz", config.packages, _shuffled(config), config.tokens
        )

    def __len__(self):
        return self._rows.rows

    def batches(self, start):
        size = training.rows_of_part(self._config)
        return training.batches_of(self._rows, size, self._config.seed, start)

    def held_out(self):
        """At most `held_out_rows` rows to evaluate on, or None."""
        config = self._config
        if not config.held_out:
            return None
        files = corpus.python_files(config.held_out)
        tokens = config.held_out_rows * config.sequence_length
        rows = self._stored("held_out.npz", config.held_out, files, tokens)
        return rows.take(slice(config.held_out_rows))

    def _stored(self, name, packages, files, tokens):
        """Packed rows from a file in `out`, or made and stored there."""
        config = self._config
        fim = CodeGemmaFIMPreprocessor(
            self._tokenizer,
            sequence_length=config.sequence_length,
            fim_rate=config.fim_rate,
            spm_rate=config.spm_rate,
            span_lengths=config.span_lengths,
            seed=config.seed,
        )
        # Shorter pieces give more middles for the same tokens, longer ones more context.
        settings = dataclasses.replace(fim.settings, shortest_piece=0.25)
        digest = hashlib.blake2b(self._tokenizer.proto, digest_size=16).hexdigest()
        length, of_rows = config.sequence_length, dataclasses.asdict(settings)
        made_of = json.dumps([of_rows, length, list(packages), tokens, digest])
        file = pathlib.Path(config.out) / name
        if file.exists():
            arrays = dict(np.load(file))
            if str(arrays.pop("made_of", "")) == made_of:
                y, weight = arrays.pop("y"), arrays.pop("weight")
                return PackedBatch(arrays, y, weight)
        made = packed_files(files, self._tokenizer, settings, length, tokens)
        x, y, weight = made
        new = file.with_name(f"new-{name}")
        np.savez(new, y=y, weight=weight, made_of=np.array(made_of), **x)
        new.replace(file)
        return made


class BuiltRows:
    """Rows of a folder of `codegemma data build`."""

    def __init__(self, config: PretrainConfig):
        self._config = config

    def __len__(self):
        return len(rows_in(self._config.data))

    def batches(self, start):
        config = self._config
        size = training.rows_of_part(config)
        return iter(data.load(config.data, size, seed=config.seed, start=start))

    def held_out(self):
        """At most `held_out_rows` rows to evaluate on, or None."""
        config = self._config
        if not config.held_out_data:
            return None
        rows = rows_in(config.held_out_data)
        if rows.about["length"] != config.sequence_length:
            raise ValueError(
                f"{config.held_out_data} holds rows of {rows.about['length']} tokens, "
                f"{config.data} of {config.sequence_length}: build both with one --length."
            )
        # Stored in random order, so the first are as good as any.
        count = min(len(rows), config.held_out_rows)
        return rows.pack([rows[i] for i in range(count)])


def steps_of(config: PretrainConfig, rows: int) -> int:
    """Updates of the run.

    Args:
        config: resolved.
        rows: how many there are.

    Raises:
        ValueError: not even one batch.
    """
    per_step = config.batch_tokens // config.sequence_length
    wanted = rows
    if config.tokens is not None:
        wanted = config.tokens // config.sequence_length
        if not config.data:  # packages: each row once
            wanted = min(wanted, rows)
    if wanted < per_step or rows < per_step // config.accumulation:
        raise ValueError(
            f"{rows} rows of {config.sequence_length} tokens of data and "
            f"tokens={config.tokens} do not fill one batch of {per_step} rows. Lower "
            "batch_tokens, or bring more data."
        )
    if wanted > rows:
        print(f"{wanted:,} rows of {rows:,}: {wanted / rows:.1f} passes over the data")
    return wanted // per_step


def train(config: PretrainConfig) -> CodeGemmaCausalLM:
    """Run the recipe, or go on with it.

    Returns:
        The trained model, also saved in `out/preset` (an adapter: `out/adapter`). If it
        may stop early (`patience`), the weights are those of the best evaluation.

    Raises:
        FloatingPointError, OSError, ValueError: see `training.run`.
    """
    config = resolved(config)
    out = pathlib.Path(config.out)
    rows_per_step = config.batch_tokens // config.sequence_length
    more = {"batch_size": rows_per_step}
    if config.data:
        more["data_digest"] = training.digest(pathlib.Path(config.data) / "data.json")
    training.keep_settings(config, **more)
    tokenizer = tokenizer_of(config)
    rows = BuiltRows(config) if config.data else PackageRows(config, tokenizer)
    steps = steps_of(config, len(rows))
    heads = config.preset or {
        "num_query_heads": config.num_query_heads,
        "num_key_value_heads": 1,
    }
    with sharding.use(config.mesh, heads):
        lm = model_of(config, tokenizer)
        training.compile_model(lm, config, steps)
        lm.preprocessor, preprocessor = None, lm.preprocessor  # rows are tokens already
        held_out = rows.held_out() if config.evaluate_every else None
        best = config.patience > 0
        training.run(lm, config, steps, rows.batches, held_out, best)
        lm.preprocessor = preprocessor
        if config.lora_rank:
            lora.save(lm, out / "adapter", ADAPTER)
        else:
            lm.save_to_preset(str(out / "preset"))
    return lm


def main(argv=None):
    """Command line: each field of `PretrainConfig` is an option."""
    train(options.parse(PretrainConfig, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()
