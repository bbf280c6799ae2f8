"""Instruction tuning: conversations in, a model that answers out.

Reads JSON lines, each a conversation `{"messages": [{"role", "content"}, ...]}` of one or
several rounds, or a pair `{"prompt", "answer"}` (`"response"` and `"completion"` are
understood too). The loss is on the answers only; conversations are packed into rows.
LoRA by default (also on an int8 or int4 base); `--lora-rank 0` trains everything.

    python -m codegemma_keras.recipes.sft --data chats.jsonl --out runs/chat

Killed at any moment, the same command goes on from the last checkpoint with the same
losses. A loss that is not finite stops the run; the last checkpoint stays.

Left out: several devices; preference training; TensorBoard (`curve.csv` has the numbers).
"""

import argparse
import dataclasses
import hashlib
import json
import math
import pathlib
import time

import keras
import numpy as np

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.data.packing import pack_documents
from codegemma_keras.losses import NextTokenLoss
from codegemma_keras.preprocessor import CodeGemmaChatPreprocessor
from codegemma_keras.recipes.checkpoints import Checkpoints
from codegemma_keras.recipes.pretrain import WarmupStableDecay

ANSWER_KEYS = ("answer", "response", "completion")
CURVE_HEADER = "step,loss,held_out_loss,learning_rate,tokens_per_second"


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
    # Batches
    sequence_length: int = 1024  # tokens a row
    batch_tokens: int = 8192  # tokens an update, padding included
    accumulation: int = 1  # parts that an update's batch is computed in
    epochs: int = 2
    # Optimizer
    learning_rate: float = 2e-4  # peak; full training wants about a tenth
    schedule: str = (
        "cosine"  # or "wsd": warm-up, constant, linear decay over the last 30 %
    )
    warmup: float = 0.05  # share of the updates
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    z_loss: float = 0.0
    # Watching
    held_out: float = 0.05  # share of the conversations, chosen by a hash of their text
    evaluate_every: int = 50  # steps
    patience: int = 0  # evaluations without a better one before it stops; 0: never
    save_every: int = 50  # steps
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
        while messages:
            ids, weights = preprocessor.row(messages)
            if len(ids) <= length + 1 and any(weights):
                rows.append((ids, weights))
                break
            messages = messages[:-2] if len(messages) > 2 else []
        else:
            dropped += 1
    return rows, dropped


def is_held_out(messages, share):
    """Whether a conversation is for evaluation: decided by its text alone."""
    text = json.dumps(messages, sort_keys=True).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


def prepare(config: SFTConfig, tokenizer):
    """`(training rows, held-out rows or None)`, each `(x, y, sample_weight)`."""
    preprocessor = CodeGemmaChatPreprocessor(tokenizer)
    parts = {False: [], True: []}
    for messages in read_conversations(config.data):
        parts[is_held_out(messages, config.held_out)].append(messages)
    packed = {}
    for held_out, conversations in parts.items():
        rows, dropped = rows_of(conversations, preprocessor, config.sequence_length)
        packed[held_out] = (
            pack_documents(rows, config.sequence_length) if rows else None
        )
        print(
            f"{'held out' if held_out else 'training'}: {len(conversations):,} "
            f"conversations, {dropped:,} too long or without an answer, "
            f"{len(packed[held_out][1]) if rows else 0:,} packed rows"
        )
    if packed[False] is None or len(packed[False][1]) < part_size(config):
        raise ValueError(
            f"{config.data} fills {0 if packed[False] is None else len(packed[False][1])} "
            f"rows of {config.sequence_length} tokens, less than one batch of "
            f"{part_size(config)} rows. Lower batch_tokens or sequence_length, or bring "
            "more conversations."
        )
    return packed[False], packed[True]


def part_size(config):
    """Rows of one step, a part of an update.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    rows, rest = divmod(
        config.batch_tokens, config.sequence_length * config.accumulation
    )
    if rest or not rows:
        raise ValueError(
            f"batch_tokens={config.batch_tokens} must be a multiple of sequence_length x "
            f"accumulation = {config.sequence_length} x {config.accumulation}."
        )
    return rows


def batch_of(rows, step, size, seed):
    """Batch `step`: a function of its number, so the step is the data's position."""
    x, y, weight = rows
    per_epoch = len(y) // size
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(y))
    chosen = order[place * size : (place + 1) * size]
    return {name: value[chosen] for name, value in x.items()}, y[chosen], weight[chosen]


def build(config: SFTConfig, steps) -> CodeGemmaCausalLM:
    """The model, ready to train."""
    keras.utils.set_random_seed(config.seed)
    lm = CodeGemmaCausalLM.from_preset(config.preset, dtype=config.dtype)
    if config.quantize:
        if not config.lora_rank:
            raise ValueError(
                f"quantize={config.quantize!r} freezes the base, and lora_rank=0 leaves "
                "nothing to train. Set lora_rank."
            )
        lm.backbone.quantize(config.quantize)
    if config.lora_rank:
        lora.add(
            lm,
            "sft",
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            seed=config.seed,
        )
    lm.backbone.remat = config.remat
    updates = max(1, steps // config.accumulation)
    parts = config.accumulation
    lm.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate(config, updates),
            beta_2=0.95,
            weight_decay=config.weight_decay,
            global_clipnorm=config.clip_norm,
            gradient_accumulation_steps=parts if parts > 1 else None,
        ),
        loss=NextTokenLoss(z_loss=config.z_loss),
    )
    return lm


def learning_rate(config, updates):
    """The schedule, by update."""
    warmup = max(1, round(config.warmup * updates))
    if config.schedule == "wsd":
        return WarmupStableDecay(config.learning_rate, updates, warmup, 0.3)
    if config.schedule != "cosine":
        raise ValueError(f"schedule={config.schedule!r}: give 'cosine' or 'wsd'.")
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, updates - warmup),
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
    )


def evaluate(lm, rows, size):
    """Mean loss over the weights of held-out rows."""
    x, y, weight = rows
    total = 0.0
    for start in range(0, len(y), size):
        part = slice(start, start + size)
        logs = lm.test_on_batch(
            {name: value[part] for name, value in x.items()},
            y[part],
            sample_weight=weight[part],
            return_dict=True,
        )
        total += float(logs["loss"]) * weight[part].sum()
    return float(total / weight.sum())


def train(config: SFTConfig) -> CodeGemmaCausalLM:
    """Run the recipe, or go on with it.

    Returns:
        The model with the weights of the best evaluation (without held-out data: the
        last ones). `out/adapter` holds the adapter in PEFT's format, or `out/preset`
        the model if all of it was trained.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint stays.
    """
    out = pathlib.Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    preprocessor = CodeGemmaCausalLM.preprocessor_cls.from_preset(config.preset)
    rows, held_out = prepare(config, preprocessor.tokenizer)
    size = part_size(config)
    steps = config.epochs * (len(rows[1]) // size)
    lm = build(config, steps)
    preprocessor, lm.preprocessor = lm.preprocessor, None  # rows are tokens already
    (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2))
    checkpoints, best = Checkpoints(out / "checkpoints"), Checkpoints(out / "best", 1)
    position = checkpoints.restore(lm) or {"step": 0, "best": None, "worse": 0}
    curve = Curve(out / "curve.csv", position["step"], steps, config)
    step = position["step"]
    while step < steps and not stopped(config, position):
        x, y, weight = batch_of(rows, step, size, config.seed)
        logs = lm.train_on_batch(x, y, sample_weight=weight, return_dict=True)
        loss = float(logs["loss"])
        step += 1
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss of step {step} is {loss}. The last good checkpoint, of step "
                f"{max(checkpoints.steps(), default=0)}, is in {checkpoints.folder}. "
                "Lower learning_rate or clip_norm, or look at the rows of that step: "
                f"batch_of(rows, {step - 1}, {size}, {config.seed})."
            )
        found = None
        if held_out and (step % config.evaluate_every == 0 or step == steps):
            found = evaluate(lm, held_out, size)
            if position["best"] is None or found < position["best"]:
                position.update(best=found, worse=0)
                best.save(lm, step, position)
            else:
                position["worse"] += 1
        curve.add(step, loss, found, float(lm.optimizer.learning_rate))
        if step % config.save_every == 0 or step == steps or stopped(config, position):
            checkpoints.save(lm, step, position)
    if held_out:
        best.restore(lm)
    lm.preprocessor = preprocessor
    curve.draw(out / "curve.png")
    if config.lora_rank:
        lora.save(lm, out / "adapter", "sft")
    else:
        lm.save_to_preset(str(out / "preset"))
    return lm


def stopped(config, position):
    """Whether enough evaluations in a row were not better."""
    return 0 < config.patience <= position["worse"]


class Curve:
    """`curve.csv`, a line a step; the terminal's progress; at the end a picture.

    The losses stand there in full, so that two runs can be compared to the last bit.
    """

    def __init__(self, file, done, steps, config):
        self._file, self._steps = file, steps
        self._tokens = part_size(config) * config.sequence_length
        self._last, self._mean = time.monotonic(), None
        lines = file.read_text().splitlines() if file.exists() else []
        # What was logged after the checkpoint will be logged again; a kill may have
        # left half a line.
        kept = [line for line in lines[1:] if line.split(",")[0].isdigit()]
        kept = [line for line in kept if int(line.split(",")[0]) <= done]
        file.write_text("\n".join([CURVE_HEADER, *kept]) + "\n")

    def add(self, step, loss, held_out, rate):
        """Log a step."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        # The first step compiles; it would spoil the mean for long.
        new = self._mean is None or seconds < self._mean / 4
        self._mean = seconds if new else 0.9 * self._mean + 0.1 * seconds
        speed = self._tokens / self._mean
        shown = "" if held_out is None else repr(held_out)
        with self._file.open("a") as file:
            file.write(f"{step},{loss!r},{shown},{rate:.6g},{speed:.0f}\n")
        left = (self._steps - step) * self._mean
        extra = "" if held_out is None else f", held out {held_out:.3f}"
        print(
            f"step {step}/{self._steps}, loss {loss:.3f}{extra}, {speed:,.0f} tokens/s, "
            f"{left / 60:.0f} min left",
            flush=True,
        )

    def draw(self, file):
        """Draw the curve, if matplotlib is there."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            print(
                f"no {file}: matplotlib is not installed; {self._file} has the numbers"
            )
            return
        lines = [line.split(",") for line in self._file.read_text().splitlines()[1:]]
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss")
        axes.plot(
            [int(n[0]) for n in lines], [float(n[1]) for n in lines], label="loss"
        )
        points = [(int(n[0]), float(n[2])) for n in lines if n[2]]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", label="held out")
        axes.legend()
        figure.savefig(file, dpi=120)


def main(argv=None):
    """Command line: each field of `SFTConfig` is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(SFTConfig):
        kind = str if field.default is None else type(field.default)
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=kind, default=field.default)
    train(SFTConfig(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
