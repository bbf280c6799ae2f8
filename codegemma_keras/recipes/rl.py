"""Reinforcement learning with rewards that can be checked.

    codegemma rl --preset runs/chat/preset --tasks maths/sum --out runs/rl

    Prompt -> group of Answers, sampled by our own engine -> rewards -> advantages -> update

Prompts come from families of tasks made by rule, or from a file; rewards are functions
that run tests in the sandbox or compare answers as mathematics (`rl.rewards`). The loss is
a name of `rl.losses.ALGORITHMS`; `dpo` and, as the control, `rejection` are among them. An
adapter trains by default, so the first model is the base without it and costs no memory.

Killed at any moment, the same command goes on from the last checkpoint with the same
answers, rewards and weights. ^C saves first. A run whose groups are all without signal
stops and says so.

Left out: several devices; rollouts while the update runs; other temperatures than 1; a
trained reward model.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import time
import typing
from collections.abc import Sequence
from typing import Literal

import numpy as np

from codegemma_keras import CodeGemmaCausalLM, files
from codegemma_keras.rl import rewards as judges
from codegemma_keras.rl import rollout, update
from codegemma_keras.rl.curve import Curve
from codegemma_keras.rl.losses import ALGORITHMS, Knobs, signal
from codegemma_keras.tasks import prompts as tasks
from codegemma_keras.tasks.prompts import Prompt
from codegemma_keras.training import config as settings
from codegemma_keras.training import hardware, memory, model
from codegemma_keras.training.checkpoints import Checkpoints
from codegemma_keras.training.interrupt import Interrupted, Wish
from codegemma_keras.training.progress import say

ADAPTER = "rl"
RANK = 16
DIFFICULTY = "difficulty.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLConfig(settings.RunConfig):
    """Settings of reinforcement learning. None is derived; `config.json` has what was
    chosen."""

    # What is asked, and what decides
    tasks: tuple[str, ...] = ("maths",)
    """Families of tasks to train on, such as maths/sum, or groups of them, such as maths."""
    held_out_tasks: tuple[str, ...] | None = None
    """Families to evaluate on. None: those of `tasks`, with tasks that training never
    shows. Families that are not in `tasks` are new to the model altogether."""
    data: str | None = None
    """File of prompts instead of `tasks`: JSON lines with "prompt" and the columns that
    rewards take, or "question" and "answer" as in GSM8K. A tenth is held out."""
    task_count: int = 2000
    """Tasks to make for training."""
    rewards: tuple[str, ...] = judges.TASK
    """What judges answers: tests, share-of-tests, answer, format, shortness, or your own as
    module:function or file.py:function; 0.1*format gives a weight."""
    isolation: Literal["bubblewrap", "namespaces", "limits"] = "bubblewrap"
    """The weakest sandbox that programs of the model may run in."""

    preset: str = "code_gemma_tiny_instruct_py"
    """Name or folder of the model to start from: one that is right now and then."""
    out: str = "runs/rl"
    """Folder of the run: settings, log, checkpoints and the result. The same command with
    the same folder goes on where it stopped."""
    lora_rank: int | None = None
    """Rank of the adapter that trains; 0 trains all weights, and needs memory for the first
    model beside it where beta is not 0. None: that of `adapter`, or 16."""
    sequence_length: int | None = None
    """Tokens of a row of the update, which holds one answer with its prompt or several.
    None: what the longest prompt and answer need."""

    # The loss
    loss: Literal[
        "reinforce", "grpo", "dr_grpo", "dapo", "gspo", "dpo", "rejection"
    ] = "reinforce"
    """How rewards become a gradient; see docs/rl.md. reinforce, with a divergence from the
    first model in the reward, is what Gemma 1's report names."""
    beta: float | None = None
    """Weight of the divergence from the first model. None: 0.05 for reinforce, 0.1 for dpo,
    else 0."""
    epsilon: float | None = None
    """How far a probability may fall, as a share, before an answer counts no more. None: the
    loss's own."""
    epsilon_high: float | None = None
    """The same for its rise. None: `epsilon` if that is given, else the loss's own."""
    learning_rate: float | None = None
    """The highest rate. None: 5e-5 for an adapter, 2e-6 for all weights. Models of a few
    million parameters want a hundred times as much."""

    # A step
    steps: int = 100
    """Steps: each samples answers and learns from them."""
    prompts_per_step: int = 8
    """Prompts of a step."""
    group_size: int = 8
    """Answers to each prompt, whose rewards are compared with each other."""
    passes: int = 1
    """Updates on the answers of a step. From the second on the model is no longer the one
    that sampled them, and the clip counts."""
    max_new_tokens: int = 256
    """Most tokens of an answer, its stop token included."""
    rollout_rows: int = 64
    """Answers sampled at once. Lower it if the cache does not fit."""
    resample_limit: int = 4
    """dapo draws new prompts for groups without signal, at most this many times the
    prompts of a step."""

    # Which prompts
    filter_samples: int = 0
    """Answers to each prompt before the first step; prompts that the model always or never
    solves are left out. 0: all stay."""
    least_pass: float = 0.05
    """With filter_samples: least share of right answers of a prompt that stays."""
    most_pass: float = 0.95
    """With filter_samples: most share of right answers of a prompt that stays."""

    # Watching
    evaluate_every: int = 20
    """Steps between two evaluations on held-out prompts; 0: none."""
    held_out_prompts: int = 64
    """Prompts of an evaluation."""
    held_out_samples: int = 8
    """Answers to each, sampled at temperature 1: k of pass@k."""
    save_every: int = 10
    """Steps between two checkpoints."""
    silent_steps: int = 10
    """Steps in a row in which no group has a signal, after which the run stops."""

    def __post_init__(self):
        super().__post_init__()
        least = {"steps": 1, "prompts_per_step": 1, "group_size": 2, "passes": 1}
        least |= {"max_new_tokens": 1, "rollout_rows": 1, "resample_limit": 1}
        least |= {"filter_samples": 0, "held_out_prompts": 1, "held_out_samples": 1}
        least |= {"silent_steps": 1, "task_count": 1}
        for name, low in least.items():
            settings.at_least(self, name, low)
        for name in ("beta", "epsilon", "epsilon_high"):
            if getattr(self, name) is not None:
                settings.at_least(self, name, 0)
        settings.between(self, "least_pass", 0, 1)
        settings.between(self, "most_pass", 0, 1)
        if self.loss not in ALGORITHMS:
            raise ValueError(
                f"loss={self.loss!r}: give one of {', '.join(ALGORITHMS)}."
            )
        if self.loss == "rejection" and (
            self.beta or self.epsilon or self.epsilon_high
        ):
            raise ValueError(
                "loss='rejection' is plain fine-tuning: it has no beta and no epsilon."
            )
        if self.loss == "dpo" and (self.epsilon or self.epsilon_high):
            raise ValueError("loss='dpo' clips nothing: leave out epsilon.")
        answers = self.prompts_per_step * self.group_size
        unit = 2 if self.loss == "dpo" else 1  # pairs stay together
        if (2 * self.prompts_per_step if unit == 2 else answers) % (
            unit * self.accumulation
        ):
            raise ValueError(
                f"accumulation={self.accumulation} must divide the "
                f"{self.prompts_per_step} pairs of a step."
                if unit == 2
                else f"accumulation={self.accumulation} must divide the {answers} answers "
                "of a step."
            )
        tasks.families(self.tasks)
        tasks.families(self.held_out_tasks or ())


def knobs_of(config) -> Knobs:
    """The numbers of the loss: those asked for, else its own."""
    own = ALGORITHMS[config.loss].knobs
    low = own.low if config.epsilon is None else config.epsilon
    high = own.high if config.epsilon is None else config.epsilon
    high = high if config.epsilon_high is None else config.epsilon_high
    return Knobs(low, high, own.beta if config.beta is None else config.beta)


def resolved(config: RLConfig, half=hardware.half_precision) -> RLConfig:
    """The settings with nothing left to derive but the length of rows.

    Args:
        config: what was asked.
        half: as of `training.model.with_dtype`.
    """
    config = settings.with_adapter(config, RANK)
    updates = config.steps * config.passes
    knobs = knobs_of(config)
    return dataclasses.replace(
        model.with_dtype(config, half),
        learning_rate=config.learning_rate or (5e-5 if config.lora_rank else 2e-6),
        warmup_steps=config.warmup_steps or max(1, round(0.05 * updates)),
        beta=knobs.beta,
        epsilon=None if config.loss in ("dpo", "rejection") else knobs.low,
        epsilon_high=None if config.loss in ("dpo", "rejection") else knobs.high,
    )


def prompts_of(config: RLConfig) -> tuple[list[Prompt], list[Prompt]]:
    """`(training prompts, held-out prompts)` of the settings."""
    if config.data:
        everything = tasks.read(config.data)
        held_out = [p for p in everything if p.held_out(0.1)]
        train = [p for p in everything if not p.held_out(0.1)]
    else:
        train = tasks.made(config.tasks, config.task_count, config.seed)
        held_out = []
    if config.held_out_tasks or not config.data:
        names = config.held_out_tasks or config.tasks
        held_out = tasks.made(
            names, config.held_out_prompts, config.seed, held_out=True
        )
    return train, held_out[: config.held_out_prompts]


def train(config: RLConfig) -> CodeGemmaCausalLM:
    """Run the recipe, or go on with it.

    Returns:
        The model with its last weights. `out/adapter` holds the adapter in PEFT's format,
        or `out/preset` the model if all of it was trained.

    Raises:
        FloatingPointError, Interrupted, OSError, ValueError, RuntimeError: see `run`.
    """
    train_prompts, held_out = prompts_of(config)
    rewards = judges.named(config.rewards, config.isolation)
    return run(config, train_prompts, held_out, rewards)


def run(
    config: RLConfig,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    rewards: Sequence[tuple[float, str, judges.Reward]],
) -> CodeGemmaCausalLM:
    """`train` with prompts and rewards of your own.

    Args:
        config: settings; what it says of tasks, data and rewards is only written down.
        prompts: to train on.
        held_out: to evaluate on; may be empty.
        rewards: `(weight, name, function)` each.

    Raises:
        FloatingPointError: a loss or a weight is not finite; the last checkpoint stays.
        Interrupted: ^C or SIGTERM; a checkpoint was saved.
        OSError: no room for a checkpoint.
        RuntimeError: the sandbox is missing.
        ValueError: a reward did not do what its signature says; no group had a signal for
            `silent_steps` steps; a prompt is too long; other settings for the same folder.
    """
    config = resolved(config)
    if len(prompts) < config.prompts_per_step:
        raise ValueError(
            f"There are {len(prompts)} prompts, and a step takes "
            f"{config.prompts_per_step}. Lower prompts_per_step or bring more."
        )
    say(f"rl of {config.preset}: {model.described(config, hardware.device_name())}")
    lm = model.load(config, ADAPTER)
    longest = rollout.check_lengths(
        lm.tokenizer,
        [*prompts, *held_out],
        config.max_new_tokens,
        lm.preprocessor.sequence_length,
    )
    needed = longest + config.max_new_tokens - 1
    length = config.sequence_length or needed
    if length < needed:
        raise ValueError(
            f"sequence_length={length}: the longest prompt has {longest} tokens, and with "
            f"max_new_tokens={config.max_new_tokens} an answer takes a row of {needed}."
        )
    config = dataclasses.replace(config, sequence_length=length)
    digest = rollout.seed_of([p.key() for p in (*prompts, *held_out)])
    settings.keep_settings(config, prompts_digest=digest)
    return _Run(config, lm, list(prompts), list(held_out), rewards).all_steps()


class _Step(typing.NamedTuple):
    """What a step sampled: `answers` and `rewards` of `prompts`, `[P][G]` and `[P, G]`."""

    prompts: list[Prompt]
    answers: list[list[rollout.Answer]]
    rewards: np.ndarray
    position: int  # in the stream of prompts, after it
    seconds: float


class _Run:
    """A run under way: the steps, and what they share."""

    def __init__(self, config, lm, prompts, held_out, rewards):
        self.config, self.lm = config, lm
        self.prompts, self.held_out, self.rewards = prompts, held_out, rewards
        self.algorithm, self.knobs = ALGORITHMS[config.loss], knobs_of(config)
        self.out = pathlib.Path(config.out)
        self.reference = self._reference()
        loss = update.PolicyLoss(self.algorithm, self.knobs)
        model.compile_model(lm, config, config.steps * config.passes, loss)

    def _reference(self):
        if not self.knobs.beta:
            return None
        if self.config.lora_rank and not self.config.adapter:
            return rollout.Reference(self.lm)
        first = model.load(self.config, ADAPTER)  # the base itself or its adapter moves
        return rollout.Reference(self.lm, first)

    def all_steps(self):
        """From the newest checkpoint to the last step."""
        config, lm = self.config, self.lm
        with Checkpoints(self.out / "checkpoints", config.keep) as checkpoints:
            position = checkpoints.restore(lm)
            position = position or {"step": 0, "prompt": 0, "tokens": 0, "silent": 0}
            if position["step"]:
                say(f"goes on after step {position['step']} of {config.steps}")
            curve = Curve(self.out, position["step"], config.steps)
            if position["step"] == 0:
                self._filter()
                self._evaluate_first(curve)
            else:
                self._read_filter()
            with contextlib.ExitStack() as stack:
                stack.callback(curve.draw)
                wish = stack.enter_context(Wish())
                while position["step"] < config.steps:
                    self._one_step(position, curve, checkpoints)
                    last = position["step"] == config.steps
                    due = position["step"] % config.save_every == 0
                    if last or due or wish.signal is not None:
                        checkpoints.save(lm, position["step"], position)
                    if wish.signal is not None and not last:
                        checkpoints.wait()
                        raise Interrupted(
                            f"Interrupted after step {position['step']} of "
                            f"{config.steps}, which is saved. The same command goes on "
                            "from there.",
                            wish.signal,
                        )
        say(f"the result is in {model.save_result(lm, config, ADAPTER)}")
        return lm

    def _one_step(self, position, curve, checkpoints):
        """Sample, judge, update and log; `position` moves on by one step."""
        config, began = self.config, time.monotonic()
        step = position["step"] + 1
        sampled = self._sample(step, position["prompt"])
        found = self._learn(sampled, step)
        silent = float(1.0 - signal(sampled.rewards).mean())
        quiet = position["silent"] + 1 if silent == 1.0 else 0
        answers = [a for group in sampled.answers for a in group]
        count = sum(len(a.tokens) for a in answers)
        position.update(
            step=step,
            prompt=sampled.position,
            tokens=position["tokens"] + count,
            silent=quiet,
        )
        row = {
            "step": step,
            "tokens": position["tokens"],
            "reward": float(np.nanmean(sampled.rewards)),
            "best_of_group": float(np.mean(_best(sampled.rewards))),
            "silent": silent,
            "length": count / len(answers),
            "stopped": float(np.mean([a.stopped for a in answers])),
            "rollout_tokens_per_second": float(f"{count / sampled.seconds:.4g}"),
            **found,
        }
        if not self.knobs.beta:
            row["kl"] = None  # there is no first model to compare with
        if not math.isfinite(row["loss"]):
            checkpoints.wait()
            raise FloatingPointError(
                f"The loss of step {step} is {row['loss']}. {checkpoints.where()} Lower "
                "learning_rate or clip_norm."
            )
        if _due(step, config.evaluate_every, config.steps) and self.held_out:
            row["held_out_pass_1"], row["held_out_pass_k"] = self.evaluate()
        curve.add(row, time.monotonic() - began)
        if quiet >= config.silent_steps:
            raise ValueError(
                f"In {quiet} steps in a row, up to step {step}, all answers to a prompt had "
                f"equal rewards (the last mean is {row['reward']:.3f}), so there was "
                "nothing to learn from. "
                + (
                    "The tasks are too easy for the model: choose harder ones."
                    if row["reward"] > 0.5
                    else "Begin with a model that is right now and then (codegemma sft), "
                    "choose easier tasks, or enlarge group_size."
                )
            )

    # A step's parts

    def _sample(self, step, first) -> _Step:
        """Groups for a step; `dapo` goes on until all of them have a signal."""
        config, began = self.config, time.monotonic()
        wanted, tries = config.prompts_per_step, 1
        if self.algorithm.resamples:
            tries = config.resample_limit
        prompts, answers, rewards = [], [], []
        spare = []  # without a signal: fills up what is missing at the end
        while tries and len(prompts) < wanted:
            chosen = [self._prompt(first + i) for i in range(wanted)]
            first, tries = first + wanted, tries - 1
            groups = self._groups(chosen, config.group_size, ("step", step, first))
            table = self._judge(chosen, groups)
            told = signal(table) if self.algorithm.resamples else [True] * wanted
            for one in zip(told, chosen, groups, table, strict=True):
                (prompts if one[0] else spare).append(one[1:])
        taken = (prompts + spare)[:wanted]
        prompts, answers, rewards = (list(each) for each in zip(*taken, strict=True))
        seconds = time.monotonic() - began
        return _Step(prompts, answers, np.array(rewards), first, seconds)

    def _prompt(self, number) -> Prompt:
        """The prompt of a place in the stream: all of them, shuffled anew each time."""
        epoch, place = divmod(number, len(self.prompts))
        order = np.random.default_rng((self.config.seed, epoch))
        return self.prompts[order.permutation(len(self.prompts))[place]]

    def _groups(self, prompts, size, what):
        return rollout.sample(
            self.lm,
            prompts,
            size,
            self.config.max_new_tokens,
            (self.config.seed, what),
            self.config.rollout_rows,
        )

    def _judge(self, prompts, groups) -> np.ndarray:
        size = len(groups[0])
        each = [prompt for prompt in prompts for _ in range(size)]
        texts = [answer.text for group in groups for answer in group]
        return judges.score(self.rewards, each, texts).reshape(-1, size)

    def _learn(self, sampled, step) -> dict:
        """The updates of a step; loss, speeds and measures of the first of them."""
        config, began = self.config, time.monotonic()
        answers = [a for group in sampled.answers for a in group]
        rewards, reference = sampled.rewards, None
        if self.reference is not None:
            reference = self.reference.log_probabilities(answers)
            if self.algorithm.kl_in_reward:
                far = [
                    float(np.sum(np.float32(a.log_probabilities) - first))
                    for a, first in zip(answers, reference, strict=True)
                ]
                rewards = rewards - self.knobs.beta * np.reshape(far, rewards.shape)
        advantages = self.algorithm.advantages(rewards).ravel()
        if config.loss == "dpo":
            answers, advantages, reference = _pairs(
                answers, advantages, reference, config.prompts_per_step
            )
        parts = update.parts_of(
            answers,
            advantages,
            reference,
            self.algorithm,
            length=config.sequence_length,
            limit=config.max_new_tokens,
            count=config.accumulation,
        )
        rows = len(parts[0].targets["ids"])
        with memory.explained(self.lm, rows, config.sequence_length):
            found = [update.update(self.lm, parts) for _ in range(config.passes)]
        count = config.passes * sum(len(a.tokens) + len(a.prompt_ids) for a in answers)
        speed = count / (time.monotonic() - began)
        last = {"clipped": found[-1]["clipped"]}
        rate = float(getattr(self.lm.optimizer, "learning_rate", 0.0))
        return {
            **found[0],
            **last,
            "learning_rate": float(f"{rate:.6g}"),
            "update_tokens_per_second": float(f"{speed:.4g}"),
        }

    # Before and between

    def evaluate(self) -> tuple[float, float]:
        """`(pass@1, pass@k)` on the held-out prompts, of k sampled answers to each."""
        k = self.config.held_out_samples
        groups = self._groups(self.held_out, k, "held out")
        right = self._judge(self.held_out, groups) > 0.5
        return float(right.mean()), float(right.any(axis=1).mean())

    def _evaluate_first(self, curve):
        if self.config.evaluate_every and self.held_out:
            first, k = self.evaluate()
            curve.add(
                {"step": 0, "tokens": 0, "held_out_pass_1": first, "held_out_pass_k": k}
            )

    def _filter(self):
        """Leave out prompts that the model always or never solves."""
        config = self.config
        if not config.filter_samples:
            return
        groups = self._groups(self.prompts, config.filter_samples, "filter")
        share = (self._judge(self.prompts, groups) > 0.5).mean(axis=1)
        kept = (share >= config.least_pass) & (share <= config.most_pass)
        say(
            f"difficulty: of {len(kept)} prompts {int((share < config.least_pass).sum())} "
            f"are too hard and {int((share > config.most_pass).sum())} too easy"
        )
        text = json.dumps(
            {"share": share.tolist(), "kept": np.flatnonzero(kept).tolist()}
        )
        files.put(self.out / DIFFICULTY, text.encode())
        self._read_filter()

    def _read_filter(self):
        if not self.config.filter_samples:
            return
        kept = json.loads((self.out / DIFFICULTY).read_text())["kept"]
        self.prompts = [self.prompts[place] for place in kept]
        if len(self.prompts) < self.config.prompts_per_step:
            raise ValueError(
                f"{len(self.prompts)} prompts are neither too hard nor too easy, and a "
                f"step takes {self.config.prompts_per_step}. Widen least_pass and "
                "most_pass, or choose other tasks."
            )


def _pairs(answers, advantages, reference, count):
    """Chosen and rejected answers by turns, `count` pairs; pairs without a gap weigh 0."""
    groups = np.reshape(advantages, (count, -1))
    first = np.arange(count) * groups.shape[1]
    chosen, rejected = first + groups.argmax(axis=1), first + groups.argmin(axis=1)
    places = np.stack([chosen, rejected], axis=1).ravel()
    return (
        [answers[place] for place in places],
        advantages[places],
        [reference[place] for place in places],
    )


def _best(rewards):
    return np.max(np.where(np.isfinite(rewards), rewards, -np.inf), axis=1)


def _due(step, every, steps):
    return bool(every) and (step == steps or step % every == 0)


if __name__ == "__main__":
    from codegemma_keras.cli import main

    sys.exit(main(["rl", *sys.argv[1:]]))
