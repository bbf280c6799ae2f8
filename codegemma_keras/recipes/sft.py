"""Instruction tuning: conversations in, a model that answers out.

Reads JSON lines, each a conversation `{"messages": [{"role", "content"}, ...]}` of one or
several rounds, or a pair `{"prompt", "answer"}` (`"response"` and `"completion"` are
understood too). The loss is on the answers only; conversations are packed into rows.
LoRA by default (also on an int8 or int4 base); `--lora-rank 0` trains everything.

    python -m codegemma_keras.recipes.sft --data chats.jsonl --out runs/chat

Killed at any moment, the same command goes on from the last checkpoint with the same
losses. A loss that is not finite stops the run; the last checkpoint stays.

Left out: preference training.
"""

import dataclasses
import hashlib
import json
import pathlib

import keras

from codegemma_keras import CodeGemmaCausalLM, lora, sharding
from codegemma_keras.batches import pack
from codegemma_keras.preprocessor import CodeGemmaChatPreprocessor
from codegemma_keras.recipes import options
from codegemma_keras.training import loop as training

ADAPTER = "sft"
ANSWER_KEYS = ("answer", "response", "completion")
WARMUP = 0.05  # share of the steps


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """Every knob of the recipe, with its unit."""

    data: str = "chats.jsonl"
    out: str = "runs/sft"
    preset: str = "code_gemma_tiny_py"
    dtype: str | None = None  # of the base; None: Keras's own
    # What trains
    lora_rank: int = 16  # 0 trains all weights
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    quantize: str | None = None  # "int8" or "int4": of the frozen base, with LoRA
    remat: str = "none"  # or "attention", "block": see CodeGemmaBackbone.remat
    mesh: str | None = None  # "data=8", "fsdp=2,model=4": see codegemma_keras.sharding
    # Batches
    sequence_length: int = 1024  # tokens a row
    batch_tokens: int = 8192  # tokens an update, padding included
    accumulation: int = 1  # parts that an update's batch is computed in
    epochs: int = 2
    # Optimizer
    learning_rate: float = 2e-4  # peak; full training wants about a tenth
    schedule: str = "cosine"  # or "wsd": warm-up, constant, linear decay
    warmup_steps: int | None = None  # None: a twentieth of them
    decay: float = 0.3  # share of the steps, at the end of "wsd"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    z_loss: float = 0.0
    # Watching; all in steps. The first is a divisor of the two others.
    held_out: float = 0.05  # share of the conversations, chosen by a hash of their text
    log_every: int = 1
    evaluate_every: int = 50  # 0: never
    save_every: int = 50
    keep: int = 2  # checkpoints
    patience: int = 0  # evaluations without a better one before it stops; 0: never
    peak_tflops: float | None = None  # of one device, for MFU; None: a data sheet's
    tensorboard: bool = False  # needs tensorboardX
    seed: int = 0


def read_conversations(file):
    """The conversations of a JSON lines file, as lists of messages.

    Raises:
        ValueError: a line is neither conversation nor pair; it is named.
    """
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}: no JSON ({error}).") from None
            answers = [key for key in ANSWER_KEYS if key in item]
            if "messages" in item:
                yield item["messages"]
            elif "prompt" in item and answers:
                yield [
                    {"role": "user", "content": item["prompt"]},
                    {"role": "model", "content": item[answers[0]]},
                ]
            else:
                raise ValueError(
                    f"{file}, line {number} has {sorted(item)}; it must have 'messages', "
                    f"or 'prompt' and one of {', '.join(ANSWER_KEYS)}."
                )


def rows_of(conversations, preprocessor, length):
    """Token rows that fit, as `(ids, weights)`, and how many conversations did not.

    Of a conversation that is too long the first rounds that fit are kept. A round is
    never cut: an answer without its end would teach the model not to stop.
    """
    rows, dropped = [], 0
    for messages in conversations:
        row = preprocessor.row(messages, length)
        if row[0]:
            rows.append(row)
        else:
            dropped += 1
    return rows, dropped


def is_held_out(messages, share):
    """Whether a conversation is for evaluation: decided by its text alone."""
    text = json.dumps(messages, sort_keys=True).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


def prepare(config: SFTConfig, tokenizer):
    """`(training rows, held-out rows or None)`, each a `PackedBatch`."""
    preprocessor = CodeGemmaChatPreprocessor(tokenizer)
    parts = {False: [], True: []}
    for messages in read_conversations(config.data):
        parts[is_held_out(messages, config.held_out)].append(messages)
    packed = {}
    for held_out, conversations in parts.items():
        rows, dropped = rows_of(conversations, preprocessor, config.sequence_length)
        packed[held_out] = None
        if rows:
            segments, weights = zip(*rows, strict=True)
            packed[held_out] = pack(segments, config.sequence_length, weights=weights)
        print(
            f"{'held out' if held_out else 'training'}: {len(conversations):,} "
            f"conversations, {dropped:,} too long or without an answer, "
            f"{packed[held_out].rows if rows else 0:,} packed rows"
        )
    rows = 0 if packed[False] is None else packed[False].rows
    wanted = training.rows_of_part(config) * config.accumulation
    if rows < wanted:
        raise ValueError(
            f"{config.data} fills {rows} rows of {config.sequence_length} tokens, less "
            f"than one batch of {wanted} rows. Lower batch_tokens or sequence_length, or "
            "bring more conversations."
        )
    return packed[False], packed[True]


def model_of(config: SFTConfig) -> CodeGemmaCausalLM:
    """The preset, with the adapter that trains."""
    keras.utils.set_random_seed(config.seed)
    lm = CodeGemmaCausalLM.from_preset(config.preset, dtype=config.dtype)
    training.add_adapter(lm, config, ADAPTER)
    return lm


def resolved(config: SFTConfig, rows: int) -> tuple[SFTConfig, int]:
    """The settings with nothing left to derive, and the number of steps."""
    parts = config.epochs * (rows // training.rows_of_part(config))
    steps = parts // config.accumulation
    warmup = config.warmup_steps
    if warmup is None:
        warmup = max(1, round(WARMUP * steps))
    return dataclasses.replace(config, warmup_steps=warmup), steps


def train(config: SFTConfig) -> CodeGemmaCausalLM:
    """Run the recipe, or go on with it.

    Returns:
        The model with the weights of the best evaluation (without held-out data: the
        last ones). `out/adapter` holds the adapter in PEFT's format, or `out/preset`
        the model if all of it was trained.

    Raises:
        FloatingPointError, OSError, ValueError: see `training.run`.
    """
    out = pathlib.Path(config.out)
    preprocessor = CodeGemmaCausalLM.preprocessor_cls.from_preset(config.preset)
    rows, held_out = prepare(config, preprocessor.tokenizer)
    config, steps = resolved(config, rows.rows)
    training.keep_settings(config, data_digest=training.digest(config.data))
    if not config.evaluate_every:
        held_out = None
    size = training.rows_of_part(config)

    def batches(start):
        return training.batches_of(rows, size, config.seed, start)

    with sharding.use(config.mesh, config.preset):
        lm = model_of(config)
        training.compile_model(lm, config, steps)
        lm.preprocessor, preprocessor = None, lm.preprocessor  # rows are tokens already
        training.run(lm, config, steps, batches, held_out, held_out is not None)
        lm.preprocessor = preprocessor
        if config.lora_rank:
            lora.save(lm, out / "adapter", ADAPTER)
        else:
            lm.save_to_preset(str(out / "preset"))
    return lm


def main(argv=None):
    """Command line: each field of `SFTConfig` is an option."""
    train(options.parse(SFTConfig, __doc__.splitlines()[0], argv))


if __name__ == "__main__":
    main()
