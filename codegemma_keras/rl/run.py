"""The steps of a run of reinforcement learning: restartable, watched.

    sample -> judge -> advantages -> update -> log -> now and then evaluate and save

A position is a few numbers: the step, the place in the stream of prompts, the tokens so
far, and how many steps in a row had no signal. With the weights and the optimizer in the
same checkpoint, a run that was killed goes on as one that was not.
"""

import contextlib
import json
import math
import pathlib
import time
import typing

import numpy as np

from codegemma_keras import files
from codegemma_keras.rl import rewards as judges
from codegemma_keras.rl import rollout, update
from codegemma_keras.rl.curve import Curve
from codegemma_keras.rl.losses import ALGORITHMS, knobs_of, signal
from codegemma_keras.tasks.prompts import Prompt
from codegemma_keras.training import memory, model
from codegemma_keras.training.checkpoints import Checkpoints
from codegemma_keras.training.interrupt import Interrupted, Wish
from codegemma_keras.training.progress import say

ADAPTER = "rl"
DIFFICULTY = "difficulty.json"


class _Step(typing.NamedTuple):
    """What a step sampled: `answers` and `rewards` of `prompts`, `[P][G]` and `[P, G]`."""

    prompts: list[Prompt]
    answers: list[list[rollout.Answer]]
    rewards: np.ndarray
    position: int  # in the stream of prompts, after it
    seconds: float


class Run:
    """A run under way: the steps, and what they share.

    Args:
        config: `recipes.rl.RLConfig` with nothing left to derive.
        lm: the model, with the adapter that trains, if one does.
        prompts: to train on.
        held_out: to evaluate on; may be empty.
        rewards: `(weight, name, function)` each.
    """

    def __init__(self, config, lm, prompts, held_out, rewards):
        self.config, self.lm = config, lm
        self.prompts, self.held_out, self.rewards = prompts, held_out, rewards
        self.algorithm = ALGORITHMS[config.loss]
        self.knobs = knobs_of(
            config.loss, config.beta, config.epsilon, config.epsilon_high
        )
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
        model.save_and_say(lm, config, ADAPTER)
        return lm

    def _one_step(self, position, curve, checkpoints):
        """Sample, judge, update and log; `position` moves on by one step."""
        config, began = self.config, time.monotonic()
        step = position["step"] + 1
        sampled = self._sample(step, position["prompt"])
        found = self._learn(sampled)
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
        if config.epsilon is None:
            row["clipped"] = None
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

    def _learn(self, sampled) -> dict:
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
            found = [
                update.update(self.lm, parts, fresh=number == 0)
                for number in range(config.passes)
            ]
        count = config.passes * sum(len(a.tokens) + len(a.prompt_ids) for a in answers)
        speed = count / (time.monotonic() - began)
        last = {"clipped": found[-1]["clipped"]}
        optimizer = getattr(self.lm.optimizer, "inner_optimizer", self.lm.optimizer)
        return {
            **found[0],
            **last,
            "learning_rate": float(f"{float(optimizer.learning_rate):.6g}"),
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
