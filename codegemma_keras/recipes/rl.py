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

import dataclasses
import sys
from collections.abc import Sequence
from typing import ClassVar, Literal

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.rl import rewards as judges
from codegemma_keras.rl import rollout
from codegemma_keras.rl.losses import ALGORITHMS, knobs_of
from codegemma_keras.rl.run import ADAPTER, Run
from codegemma_keras.tasks import prompts as tasks
from codegemma_keras.tasks.prompts import Prompt
from codegemma_keras.training import config as settings
from codegemma_keras.training import hardware, model
from codegemma_keras.training.progress import say

RANK = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLConfig(settings.RunConfig):
    """Settings of reinforcement learning. None is derived; `config.json` has what was
    chosen."""

    mesh: ClassVar[None] = None  # one device

    # What is asked, and what decides
    tasks: tuple[str, ...] = ("maths",)
    """The families of tasks to train on, such as maths/sum, or groups of families, such as
    maths."""
    held_out_tasks: tuple[str, ...] | None = None
    """The families to evaluate on. None means those of `tasks`, with tasks that are not used
    for training. Families that are not in `tasks` are entirely new to the model."""
    data: str | None = None
    """A file of prompts instead of `tasks`: JSON lines with "prompt" and the columns that
    rewards take, or "question" and "answer" as in GSM8K. A tenth is held out."""
    task_count: int = 2000
    """The number of tasks to make for training."""
    rewards: tuple[str, ...] = judges.TASK
    """The rewards: tests, share-of-tests, answer, format, shortness, or your own as
    module:function or file.py:function. 0.1*format gives a reward the weight 0.1."""
    isolation: Literal["bubblewrap", "namespaces", "limits"] = "bubblewrap"
    """The weakest sandbox that programs of the model may run in."""

    preset: str = "code_gemma_tiny_instruct_py"
    """The model to start from, by name or folder. It should be right sometimes."""
    out: str = "runs/rl"
    """The folder of the run, with settings, log, checkpoints and result. The same command
    with the same folder continues where it stopped."""
    lora_rank: int | None = None
    """The rank of the adapter that trains. 0 trains all weights, which also needs memory for
    the first model if beta is not 0. None means the rank of `adapter`, or 16."""
    sequence_length: int | None = None
    """The number of tokens in a row of the update, which holds one or several prompts with
    their answers. None means what the longest prompt and answer need."""

    # The loss
    loss: Literal[
        "reinforce", "grpo", "dr_grpo", "dapo", "gspo", "dpo", "rejection"
    ] = "reinforce"
    """How rewards become a gradient; see docs/rl.md. reinforce, with a divergence from the
    first model in the reward, is what Gemma 1's report names."""
    beta: float | None = None
    """The weight of the divergence from the first model. None means 0.05 for reinforce, 0.1
    for dpo, and 0 for the others."""
    epsilon: float | None = None
    """How far a probability may fall, as a share, before an answer no longer counts. None
    means the value of the loss."""
    epsilon_high: float | None = None
    """How far a probability may rise before an answer no longer counts. None means `epsilon`
    if it is given, or the value of the loss."""
    learning_rate: float | None = None
    """The highest learning rate. None means 5e-5 for an adapter and 2e-6 for all weights.
    Models with a few million parameters need more: benchmarks/rl_tiny.py takes 2e-3."""

    # A step
    steps: int = 100
    """The number of steps. Each step samples answers and learns from them."""
    prompts_per_step: int = 8
    """The number of prompts in a step."""
    group_size: int = 8
    """The number of answers to each prompt, whose rewards are compared with each other."""
    passes: int = 1
    """The number of passes over the answers of a step. From the second one on, the model is
    no longer the one that sampled them, and ratios are clipped."""
    max_new_tokens: int = 256
    """The most tokens of an answer, including its stop token."""
    rollout_rows: int = 64
    """The number of answers that are sampled at once. Lower it if the cache does not fit."""
    resample_limit: int = 4
    """The loss dapo draws new prompts for groups without a signal, at most this many times
    the prompts of a step."""

    # Which prompts
    filter_samples: int = 0
    """The number of answers to each prompt before the first step. Prompts that the model
    always or never solves are then left out. 0 keeps all prompts."""
    least_pass: float = 0.05
    """With filter_samples: the lowest share of right answers at which a prompt is kept."""
    most_pass: float = 0.95
    """With filter_samples: the highest share of right answers at which a prompt is kept."""

    # Watching
    evaluate_every: int = 20
    """The number of steps between two evaluations on held-out prompts. 0 means none."""
    held_out_prompts: int = 64
    """The number of prompts in an evaluation."""
    held_out_samples: int = 8
    """The number of answers to each of them, sampled at temperature 1: the k of pass@k."""
    save_every: int = 10
    """The number of steps between two checkpoints."""
    silent_steps: int = 10
    """The run stops after this many steps in a row in which no group has a signal."""

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
        if self.loss == "dpo":
            if self.epsilon or self.epsilon_high:
                raise ValueError("loss='dpo' clips nothing: leave out epsilon.")
            if self.beta is not None:
                settings.above(self, "beta", 0)
        pairs, answers = self.prompts_per_step, self.prompts_per_step * self.group_size
        count, what = (pairs, "pairs") if self.loss == "dpo" else (answers, "answers")
        if count % self.accumulation:
            raise ValueError(
                f"accumulation={self.accumulation} must divide the {count} {what} of a step."
            )
        tasks.families(self.tasks)
        tasks.families(self.held_out_tasks or ())


def _knobs(config):
    return knobs_of(config.loss, config.beta, config.epsilon, config.epsilon_high)


def resolved(config: RLConfig, half=hardware.half_precision) -> RLConfig:
    """The settings with nothing left to derive but the length of rows.

    Args:
        config: what was asked.
        half: as of `training.model.with_dtype`.
    """
    config = settings.with_adapter(config, RANK)
    updates = config.steps * config.passes
    knobs = _knobs(config)
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
    with judges.opened(config.rewards, config.isolation) as rewards:
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
    return Run(config, lm, list(prompts), list(held_out), rewards).all_steps()


if __name__ == "__main__":
    from codegemma_keras.cli import main

    sys.exit(main(["rl", *sys.argv[1:]]))
