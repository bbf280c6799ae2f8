"""Pretraining, continued from a preset or from nothing, on packed rows of code.

Continued, on what `codegemma data build` made with the preset's tokenizer:

    codegemma pretrain --data out --preset code_gemma_2b_en \\
        --batch-tokens 131072 --accumulation 4 --remat block --out runs/ours

All weights train; `--lora-rank 16` trains an adapter alone, `--quantize int8` over an
integer base. From nothing, the recipe of the embedded preset `code_gemma_tiny_py`: no
preset gives random weights, and no data the Python packages that are installed here.

    codegemma pretrain --out runs/tiny --dtype mixed_bfloat16
    codegemma pretrain --out runs/twin --dtype mixed_bfloat16 \\
        --fim-rate 0 --tokenizer runs/tiny/tokenizer.spm

On a CPU with units for bfloat16 matrices (AMX), `mixed_bfloat16` is faster than float32;
on others it is slower (docs/training.md has the figures).

Killed at any moment, the same command goes on from the last checkpoint with the same
losses; ^C saves first. In `out`: `config.json`, `curve.csv` and `curve.png`,
`checkpoints/`, and at the end `preset/` (or `adapter/` in PEFT's format).

Left out: mixing several data folders by weight (`data.load` can), and several hosts.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
from typing import Literal

import keras
import numpy as np

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaTokenizer,
    data,
    files,
    hosts,
    sharding,
)
from codegemma_keras.batches import PackedBatch
from codegemma_keras.data.read import installed as corpus
from codegemma_keras.data.rows.examples import packed_files
from codegemma_keras.preprocessor import (
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaFIMPreprocessor,
)
from codegemma_keras.tokenizer.training import train_tokenizer
from codegemma_keras.training import config as settings
from codegemma_keras.training import hardware, loop, model, order
from codegemma_keras.training.progress import say

ADAPTER = "pretrain"
TINY_LENGTH = 512  # tokens a row; attention is a fifth of the work here
TINY_TOKENS = 8_000_000
SIZES = ("num_layers", "hidden_dim", "intermediate_dim", "num_query_heads", "head_dim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(settings.TrainingConfig):
    """Settings of pretraining; the defaults are those of the embedded preset.

    None is derived; `config.json` of the run has what was chosen.
    """

    out: str = "runs/tiny"
    """The folder of the run, with settings, log, checkpoints and result. The same command
    with the same folder continues where it stopped."""

    # The data
    data: str | None = None
    """A folder that `codegemma data build` made. None means the packages that are installed
    on this machine."""
    held_out_data: str | None = None
    """Another such folder, to evaluate on."""
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
    """The Python packages to train on if there is no `data`. These have licences that permit
    it."""
    held_out: tuple[str, ...] = ("networkx", "rich", "requests", "h5py")
    """The packages for evaluation, which are not used for training."""
    held_out_rows: int = 64
    """The most rows to evaluate on."""
    tokenizer: str | None = None
    """A SentencePiece file (.spm). None means the tokenizer of the preset or of the data, or
    a new one that is trained on `packages`."""
    vocabulary_size: int = 8192
    """The number of pieces of a new tokenizer. With 8,192, a piece stands for about 3.5 bytes
    of Python."""
    fim_rate: float = 0.9
    """The share of the packages' files that are split for fill-in-the-middle. `data` is split
    already."""
    spm_rate: float = 0.5
    """The share of the split files in SPM order, in which the suffix comes first."""
    span_lengths: Literal["uniform", "log_uniform", "lines"] = "lines"
    """How long the middles are; see `preprocessor.SPAN_LENGTHS`. A small model learns to
    stop only with "lines"."""

    # The network, where there is no preset: Gemma 1 with one key/value head, as the 2B
    num_layers: int = 5
    """The number of blocks of a new network. 5 blocks and the other defaults make 4.9 million
    weights."""
    hidden_dim: int = 256
    """The width of a new network."""
    intermediate_dim: int = 1024
    """Twice the width of the feed-forward layers of a new network."""
    num_query_heads: int = 4
    """The number of query heads of a new network."""
    head_dim: int = 64
    """The size of a head of a new network."""

    lora_rank: int | None = None
    """The rank of the adapter that trains. 0 trains all weights. None means the rank of
    `adapter`, or 0, because new knowledge needs all weights."""
    sequence_length: int | None = None
    """The number of tokens in a row. None means the length of the rows in `data`, or 512."""
    tokens: int | None = None
    """The number of tokens in the whole run, including padding. None means all of `data`
    once, or 8 million tokens of the packages."""
    batch_tokens: int = 2048
    """The number of tokens in an update, including padding. A small model learns most from
    many updates."""
    learning_rate: float | None = None
    """The highest learning rate. None means 2e-3 for new weights, as for the embedded preset,
    2e-5 for all weights of a preset, and 2e-4 for an adapter. The last two are usual values
    that were not measured here."""
    schedule: Literal["cosine", "wsd"] = "wsd"
    """How the learning rate changes after its rise. With wsd (warm-up, stable, decay) it is
    constant until the last part, so that a run can be extended from there. With cosine it
    falls all the time."""
    warmup_steps: int | None = None
    """The number of updates in which the rate rises. None means 48, or a tenth of the updates
    of a run that has fewer than 480."""
    decay: float = 0.52
    """The share of the updates, at the end, in which wsd falls to zero. The default is that
    of the embedded preset."""
    weight_decay: float = 0.1
    """In each update the weights decay by this factor times the learning rate."""
    log_every: int = 20
    """The number of updates between two lines of the log. It must divide `evaluate_every` and
    `save_every`."""
    evaluate_every: int = 500
    """The number of updates between two evaluations on held-out rows. 0 means none."""
    save_every: int = 100
    """The number of updates between two checkpoints."""

    def __post_init__(self):
        super().__post_init__()
        for name in (*SIZES, "batch_tokens", "held_out_rows", "vocabulary_size"):
            settings.at_least(self, name, 1)
        if self.tokens is not None:
            settings.at_least(self, "tokens", 1)
        for name in ("fim_rate", "spm_rate"):
            settings.between(self, name, 0, 1)
        if not self.preset and (self.lora_rank or self.quantize or self.adapter):
            raise ValueError(
                "An adapter or a quantized base needs weights to stand on: set preset, or "
                "lora_rank=0 and no quantize."
            )
        if self.preset and not self.data and self.tokenizer:
            raise ValueError("preset has a tokenizer of its own: leave out tokenizer.")


def resolved(config: PretrainConfig, half=hardware.half_precision) -> PretrainConfig:
    """The settings with nothing left to derive.

    Args:
        config: what was asked.
        half: as of `training.model.with_dtype`.

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
    config = model.with_dtype(settings.with_adapter(config, 0), half)
    rate = (2e-4 if config.lora_rank else 2e-5) if config.preset else 2e-3
    config = dataclasses.replace(
        config,
        sequence_length=length or TINY_LENGTH,
        tokens=config.tokens or (None if config.data else TINY_TOKENS),
        learning_rate=config.learning_rate or rate,
    )
    order.rows_of_part(config)  # raises where a mesh cannot divide the batch
    warmup = config.warmup_steps or warmup_of(config)
    return dataclasses.replace(config, warmup_steps=warmup)


def warmup_of(config: PretrainConfig) -> int:
    """Updates in which the rate rises: a short run must not end before its rate is there."""
    tokens = config.tokens or len(rows_in(config.data)) * config.sequence_length
    return min(48, max(1, tokens // config.batch_tokens // 10))


def rows_in(folder):
    """The rows of a folder of `codegemma data build`, by index."""
    from codegemma_keras.data.rows.storage import Rows

    return Rows(folder)


def sizes_of(config: PretrainConfig, vocabulary_size: int) -> dict:
    """Arguments of `CodeGemmaBackbone` of a new network."""
    sizes = {name: getattr(config, name) for name in SIZES}
    return sizes | {"num_key_value_heads": 1, "vocabulary_size": vocabulary_size}


def model_of(config: PretrainConfig, tokenizer) -> CodeGemmaCausalLM:
    """The model to start from: the preset, or random weights."""
    if config.preset:
        return model.load(config, ADAPTER)
    keras.utils.set_random_seed(config.seed)
    sizes = sizes_of(config, tokenizer.vocabulary_size())
    backbone = CodeGemmaBackbone(**sizes, dtype=config.dtype)
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
    if config.tokenizer and not spm.exists():
        raise FileNotFoundError(f"tokenizer={config.tokenizer!r} is not there.")
    if not spm.exists():
        say(f"training a tokenizer of {config.vocabulary_size} pieces")
        texts = (document.text for document in _shuffled(config))
        files.put(spm, train_tokenizer(texts, config.vocabulary_size))
    return CodeGemmaTokenizer(proto=str(spm))


def _shuffled(config):
    found = list(corpus.python_files(config.packages))
    np.random.default_rng(config.seed).shuffle(found)
    return found


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
        size = order.rows_of_batch(self._config)
        return order.batches_of(self._rows, size, self._config.seed, start)

    def held_out(self):
        """At most `held_out_rows` rows to evaluate on, or None."""
        config = self._config
        if not config.held_out:
            return None
        found = corpus.python_files(config.held_out)
        tokens = config.held_out_rows * config.sequence_length
        rows = self._stored("held_out.npz", config.held_out, found, tokens)
        return rows.take(slice(config.held_out_rows))

    def _stored(self, name, packages, sources, tokens):
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
        cuts = dataclasses.replace(fim.settings, shortest_piece=0.25)
        digest = hashlib.blake2b(self._tokenizer.proto, digest_size=16).hexdigest()
        length, of_rows = config.sequence_length, dataclasses.asdict(cuts)
        made_of = json.dumps([of_rows, length, list(packages), tokens, digest])
        file = pathlib.Path(config.out) / name
        if file.exists():
            arrays = dict(np.load(file))
            if str(arrays.pop("made_of", "")) == made_of:
                y, weight = arrays.pop("y"), arrays.pop("weight")
                return PackedBatch(arrays, y, weight)
        made = packed_files(sources, self._tokenizer, cuts, length, tokens)
        x, y, weight = made
        with files.new_file(file) as new:
            np.savez(new, y=y, weight=weight, made_of=np.array(made_of), **x)
        return made


class BuiltRows:
    """Rows of a folder of `codegemma data build`."""

    def __init__(self, config: PretrainConfig):
        self._config = config

    def __len__(self):
        return len(rows_in(self._config.data))

    def batches(self, start):
        config = self._config
        size = order.rows_of_batch(config)
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
    per_step = order.rows_of_batch(config)
    wanted = rows
    if config.tokens is not None:
        wanted = config.tokens // config.sequence_length
        if not config.data:  # packages: each row once
            wanted = min(wanted, rows)
    if wanted < per_step or (not config.data and rows < per_step):
        raise ValueError(
            f"{rows} rows of {config.sequence_length} tokens of data and "
            f"tokens={config.tokens} do not fill one batch of {per_step} rows. Lower "
            "batch_tokens, or bring more data."
        )
    if wanted > rows:
        say(f"{wanted:,} rows of {rows:,}: {wanted / rows:.1f} passes over the data")
    return wanted // per_step


def train(config: PretrainConfig) -> CodeGemmaCausalLM:
    """Run the recipe, or go on with it.

    Returns:
        The trained model, also saved in `out/preset` (an adapter: `out/adapter`). If it
        may stop early (`patience`), the weights are those of the best evaluation.

    Raises:
        FloatingPointError, OSError, ValueError: see `training.loop.run`.
    """
    if config.several_hosts:
        hosts.begin()
    config = resolved(config)
    what = f"pretrain of {config.preset}" if config.preset else "pretrain from nothing"
    say(f"{what}: {model.described(config, hardware.device_name())}")
    more = {"batch_size": order.rows_of_batch(config)}
    if config.data:
        more["data_digest"] = settings.digest(pathlib.Path(config.data) / "data.json")
    settings.keep_settings(config, **more)
    tokenizer = tokenizer_of(config)
    rows = BuiltRows(config) if config.data else PackageRows(config, tokenizer)
    steps = steps_of(config, len(rows))
    heads = config.preset or sizes_of(config, tokenizer.vocabulary_size())
    with sharding.use(config.mesh, heads):
        lm = model_of(config, tokenizer)
        model.compile_model(lm, config, steps)
        lm.preprocessor, preprocessor = None, lm.preprocessor  # rows are tokens already
        held_out = rows.held_out() if config.evaluate_every else None
        loop.run(lm, config, steps, rows.batches, held_out, config.patience > 0)
        lm.preprocessor = preprocessor
        model.save_and_say(lm, config, ADAPTER)
    return lm


if __name__ == "__main__":
    from codegemma_keras.cli import main

    sys.exit(main(["pretrain", *sys.argv[1:]]))
