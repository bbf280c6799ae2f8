"""Instruction tuning: conversations in, a model that answers out.

    codegemma sft --data chats.jsonl --out runs/chat

Conversations come as people have them (`conversations.py` lists the formats). The loss is
on the answers only; conversations are packed into rows. An adapter trains by default,
also over an int8 or int4 base; `--lora-rank 0` trains all weights.

Killed at any moment, the same command goes on from the last checkpoint with the same
losses. ^C saves first. A loss that is not finite stops the run; the last checkpoint stays.

Left out: preference training.
"""

import collections
import dataclasses
import hashlib
import json
import math
import sys

from codegemma_keras import CodeGemmaCausalLM, chat, hosts, sharding
from codegemma_keras.batches import pack
from codegemma_keras.recipes import conversations
from codegemma_keras.training import config as settings
from codegemma_keras.training import hardware, loop, model, order
from codegemma_keras.training.progress import say

ADAPTER = "sft"
RANK = 16
LENGTH = 1024
TOKENS = 8192  # of an update
UPDATES = 8  # in a pass, at least


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig(settings.TrainingConfig):
    """Settings of instruction tuning. None is derived; `config.json` has what was chosen."""

    data: str = "chats.jsonl"
    """The file of conversations: JSON lines, a JSON array, CSV, TSV or Parquet, with or
    without gzip."""
    preset: str = "smollm2_135m_code"
    """The model to start from, by name or folder."""
    out: str = "runs/sft"
    """The folder of the run, with settings, log, checkpoints and result. The same command
    with the same folder continues where it stopped."""
    lora_rank: int | None = None
    """The rank of the adapter that trains. 0 trains all weights. None means the rank of
    `adapter`, or 16, which is enough to learn a style of answering."""
    sequence_length: int | None = None
    """The number of tokens in a row, up to the model's context. None means 1,024, or the
    context if that is less. A longer conversation is cut after the last answer that fits."""
    batch_tokens: int | None = None
    """The number of tokens in an update, including padding. None means 8,192, or less where
    the conversations are few, so that a pass over them has at least eight updates."""
    epochs: int = 2
    """The number of passes over the conversations. With more than three, the model soon
    learns them by heart."""
    held_out: float = 0.05
    """The share of the conversations, from 0 to below 1, that are used for evaluation and
    not for training. A hash of their text chooses them."""
    learning_rate: float | None = None
    """The highest learning rate. None means 2e-4 for an adapter and 2e-5 for all weights,
    which are usual values."""

    def __post_init__(self):
        super().__post_init__()
        settings.at_least(self, "epochs", 1)
        settings.between(self, "held_out", 0, 1, below=True)


def resolved(
    config: SFTConfig, context=settings.CONTEXT, half=hardware.half_precision
) -> SFTConfig:
    """The settings with nothing left to derive but what the number of rows decides.

    Where `batch_tokens` is None, it becomes what many conversations get; `fitted` has the rest.

    Args:
        config: what was asked.
        context: int, tokens that the preset is made for.
        half: as of `training.model.with_dtype`.

    Raises:
        ValueError, FileNotFoundError: settings and model do not fit together.
    """
    config = settings.with_adapter(config, RANK)
    config = dataclasses.replace(
        model.with_dtype(config, half),
        sequence_length=config.sequence_length or min(LENGTH, context),
        learning_rate=config.learning_rate or (2e-4 if config.lora_rank else 2e-5),
    )
    if config.batch_tokens is None:
        least = least_tokens(config)
        tokens = max(1, TOKENS // least) * least
        config = dataclasses.replace(config, batch_tokens=tokens)
    order.rows_of_part(config)  # raises where a mesh cannot divide the batch
    return config


def least_tokens(config: SFTConfig) -> int:
    """Tokens of the smallest update: a row for each part of it and each share of the mesh."""
    sizes = sharding.parse_mesh(config.mesh) if config.mesh else {}
    shares = math.prod(sizes.get(axis, 1) for axis in sharding.BATCH_AXES)
    return config.sequence_length * config.accumulation * shares


def fitted(config: SFTConfig, rows: int) -> SFTConfig:
    """The settings with a smaller batch where a pass over `rows` would have few updates."""
    least = least_tokens(config)
    tokens = rows // UPDATES * config.sequence_length // least * least
    tokens = min(config.batch_tokens, max(least, tokens))
    if tokens < config.batch_tokens:
        say(f"  {tokens:,} tokens to an update, since the conversations are few")
    return dataclasses.replace(config, batch_tokens=tokens)


def with_steps(config: SFTConfig, rows: int) -> tuple[SFTConfig, int]:
    """The settings with the warm-up of a run over `rows` rows, and its number of steps.

    Raises:
        ValueError: the rows are less than a batch.
    """
    wanted, length = order.rows_of_batch(config), config.sequence_length
    if rows < wanted:
        # What may be asked for is a multiple of the smallest update.
        most = rows * length // least_tokens(config) * least_tokens(config)
        mend = f"Set batch_tokens to at most {most}, or bring" if most else "Bring"
        raise ValueError(
            f"{config.data} fills {rows_in_words(rows, length)}, less than one batch of "
            f"{wanted} rows (batch_tokens={config.batch_tokens}). {mend} more conversations."
        )
    steps = config.epochs * (rows // wanted)
    warmup = config.warmup_steps or max(1, round(0.05 * steps))
    return dataclasses.replace(config, warmup_steps=warmup), steps


def rows_in_words(rows: int, length: int) -> str:
    """The rows in words."""
    return f"{rows:,} row{'' if rows == 1 else 's'} of {length} tokens"


def token_row(conversation, tokenizer, length):
    """One conversation as `(ids, weights)`, and whether something was cut away.

    Args:
        conversation: `conversations.Conversation`.
        tokenizer: a `CodeGemmaTokenizer`.
        length: T; a row of T inputs has T + 1 ids.

    Returns:
        `(ids, weights, cut)`. The ids end with an answer: a round is kept whole or not at
        all, since an answer without its end would teach the model not to stop. Without
        any answer to learn, `ids` is empty.
    """
    ids, weights = [tokenizer.start_token_id], [0.0]
    if conversation.text is not None:
        text = [*tokenizer.encode(conversation.text), tokenizer.end_token_id]
        kept = text[:length]
        if len(text) < 2:
            return [], [], False
        return ids + kept, weights + [1.0] * len(kept), len(kept) < len(text)
    turns = conversation.turns
    form = tokenizer.chat_format
    for number, (question, answer) in enumerate(
        zip(turns[::2], turns[1::2], strict=True)
    ):
        messages = [{"role": t.role, "content": t.content} for t in (question, answer)]
        new, new_weights = [], []
        for part, is_answer in chat.render(
            messages, chat_format=form, goes_on=number > 0
        ):
            part_ids = tokenizer.encode([part])
            new += part_ids
            new_weights += [answer.weight * is_answer] * len(part_ids)
        # The newline after the last turn is not needed to learn from it.
        if len(ids) + len(new) > length + 2:
            if not any(weights):
                return [], [], True
            return ids[: length + 1], weights[: length + 1], True
        ids, weights = ids + new, weights + new_weights
    if not any(weights):
        return [], [], False
    return ids[: length + 1], weights[: length + 1], False


def is_held_out(conversation, share):
    """Whether a conversation is for evaluation: decided by its text alone."""
    content = [conversation.text, *((t.role, t.content) for t in conversation.turns)]
    digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


def prepare(config: SFTConfig, tokenizer):
    """`(training rows, held-out rows or None)`, each a `PackedBatch`.

    Raises:
        ValueError: an example that cannot be understood; none to train on.
    """
    length = config.sequence_length
    documents, counts, read = {False: [], True: []}, collections.Counter(), 0
    for conversation in conversations.read(config.data):
        ids, weights, cut = token_row(conversation, tokenizer, length)
        read += 1
        counts.update(f"{what}, left out" for what in conversation.left_out)
        if cut and ids:
            counts["conversations too long, cut after the last answer that fits"] += 1
        elif not ids:
            why = "too long" if cut else "without an answer to learn"
            counts[f"conversations {why}, left out"] += 1
        if ids:
            held_out = is_held_out(conversation, config.held_out)
            documents[held_out].append((ids, weights))
    packed = dict.fromkeys(documents)
    for held_out, found in documents.items():
        if found:
            segments, weights = zip(*found, strict=True)
            packed[held_out] = pack(segments, length, weights=weights)
    say(f"{config.data}: {read:,} conversations")
    for what, count in counts.items():
        say(f"  {count:,} {what}")
    rows = 0 if packed[False] is None else packed[False].rows
    say(f"  {len(documents[False]):,} to train on, in {rows_in_words(rows, length)}")
    say(f"  {len(documents[True]):,} to evaluate on")
    if not rows:
        raise ValueError(
            f"{config.data} has no conversation to train on. Bring conversations with an "
            f"answer that fits into {length} tokens, or set held_out to less than "
            f"{config.held_out}."
        )
    return packed[False], packed[True]


def train(config: SFTConfig) -> CodeGemmaCausalLM:
    """Run the recipe, or go on with it.

    Returns:
        The model with the weights of the best evaluation (without held-out data: the
        last ones). `out/adapter` holds the adapter in PEFT's format, or `out/preset`
        the model if all of it was trained.

    Raises:
        FloatingPointError, Interrupted, OSError, ValueError: see `training.loop.run`.
    """
    if config.several_hosts:
        hosts.begin()
    preprocessor = CodeGemmaCausalLM.preprocessor_cls.from_preset(config.preset)
    chosen = config.batch_tokens is not None
    config = resolved(config, preprocessor.sequence_length)
    say(f"sft of {config.preset}: {model.described(config, hardware.device_name())}")
    rows, held_out = prepare(config, preprocessor.tokenizer)
    config = config if chosen else fitted(config, rows.rows)
    config, steps = with_steps(config, rows.rows)
    settings.keep_settings(config, data_digest=settings.digest(config.data))
    if not config.evaluate_every:
        held_out = None

    def batches(start):
        size = order.rows_of_batch(config)
        return order.batches_of(rows, size, config.seed, start)

    with sharding.use(config.mesh, config.preset):
        lm = model.load(config, ADAPTER)
        model.compile_model(lm, config, steps)
        lm.preprocessor, preprocessor = None, lm.preprocessor  # rows are tokens already
        loop.run(lm, config, steps, batches, held_out, held_out is not None)
        lm.preprocessor = preprocessor
        model.save_and_say(lm, config, ADAPTER)
    return lm


if __name__ == "__main__":
    from codegemma_keras.cli import main

    sys.exit(main(["sft", *sys.argv[1:]]))
