"""What every recipe can be told, and what is checked before anything is loaded.

`RunConfig` holds the settings that all recipes share, `TrainingConfig` adds those of
training on given rows, and each recipe adds where its rows come from. A value that cannot
work raises when the configuration is made, or in `resolved` where the answer needs a file:
long before weights are loaded.

The docstring below each field is its help on the command line: meaning, unit, and why the
default is what it is. Nothing here imports Keras.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Literal

from codegemma_keras import files, hosts

ADAPTER_CONFIG = "adapter_config.json"
# The most tokens that a CodeGemma network can attend to.
CONTEXT = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of any run. None is derived; `config.json` has what was chosen."""

    out: str = "runs/run"
    """The folder of the run, with settings, log, checkpoints and result. The same command
    with the same folder continues where it stopped."""

    # The model
    preset: str | None = None
    """The model to start from, by name or folder."""
    adapter: str | None = None
    """The folder of an adapter in PEFT's format whose training continues. Its rank, alpha,
    dropout and layers are kept. None starts a new adapter."""
    dtype: str | None = None
    """The dtype policy of the weights that do not train, and of the arithmetic. None means
    float32 on a CPU, float16 on a T4, and bfloat16 on other accelerators, while the weights
    that train stay in float32. In bfloat16 they would lose Adam's small steps."""

    # What of it trains
    lora_rank: int | None = None
    """The rank of the adapter that trains. 0 trains all weights. None means the rank of
    `adapter`, or the recipe's default."""
    lora_alpha: float | None = None
    """The output of the adapter is scaled by alpha / rank. None means the alpha of
    `adapter`, or twice the rank, which is usual."""
    lora_dropout: float | None = None
    """The share of the adapter's inputs that are dropped in training, from 0 to below 1.
    None means the dropout of `adapter`, or 0."""
    lora_targets: tuple[str, ...] | None = None
    """The layers that get an adapter: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
    down_proj. None means the layers of `adapter`, or all seven, which learns more than
    fewer layers with a higher rank."""
    quantize: Literal["int8", "int4"] | None = None
    """Stores the frozen matrices under an adapter as integers, which take half or a quarter
    of the bytes of bfloat16. None leaves them as they are."""
    remat: Literal["none", "attention", "block"] = "none"
    """What is computed again for the backward pass instead of being kept. "block" needs the
    least memory, and a third more computation."""

    # Batches
    sequence_length: int | None = None
    """The number of tokens in a row, up to the model's context. None means the recipe's
    default."""
    accumulation: int = 1
    """The number of parts in which the batch of an update is computed. More parts need less
    memory and give the same update. This may change when a run continues."""

    # The optimizer, AdamW
    learning_rate: float | None = None
    """The highest learning rate. None means the recipe's default for what trains."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """How the learning rate changes after its rise. With cosine it falls all the time. With
    wsd (warm-up, stable, decay) it is constant until the last part."""
    warmup_steps: int | None = None
    """The number of updates in which the rate rises. None means a twentieth of all."""
    decay: float = 0.3
    """The share of the updates, at the end, in which wsd falls to zero."""
    weight_decay: float = 0.0
    """In each update the weights decay by this factor times the learning rate."""
    clip_norm: float = 1.0
    """The highest norm of all gradients together. Larger ones are scaled down to it."""

    # Watching, in updates
    evaluate_every: int = 50
    """The number of updates between two evaluations on held-out rows. 0 means none."""
    save_every: int = 50
    """The number of updates between two checkpoints."""
    keep: int = 2
    """The number of checkpoints that are kept: at least 2, so that one survives whatever
    happens to the newest."""
    seed: int = 0
    """The seed of every random choice: new weights, the order of rows, dropout."""

    def __post_init__(self):
        least = {"accumulation": 1, "save_every": 1, "evaluate_every": 0, "keep": 2}
        for name, low in least.items():
            at_least(self, name, low)
        for name in ("sequence_length", "warmup_steps"):
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        if (self.sequence_length or 0) > CONTEXT:
            raise ValueError(
                f"sequence_length={self.sequence_length} is more than the {CONTEXT} tokens "
                "of CodeGemma's context. Give at most that."
            )
        if self.lora_rank is not None:
            at_least(self, "lora_rank", 0)
        for name in ("learning_rate", "clip_norm", "lora_alpha"):
            if getattr(self, name) is not None:
                above(self, name, 0)
        at_least(self, "weight_decay", 0)
        between(self, "decay", 0, 1)
        if self.lora_dropout is not None:
            between(self, "lora_dropout", 0, 1, below=True)
        self._check_choices()
        self._check_what_trains()

    def _check_choices(self):
        for name in ("quantize", "remat", "schedule"):
            allowed = {
                "quantize": (None, "int8", "int4"),
                "remat": ("none", "attention", "block"),
                "schedule": ("cosine", "wsd"),
            }[name]
            if getattr(self, name) not in allowed:
                listed = ", ".join(repr(value) for value in allowed if value)
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: give one of {listed}."
                )

    def _check_what_trains(self):
        if self.lora_rank == 0:
            if self.quantize:
                raise ValueError(
                    f"quantize={self.quantize!r} freezes the base, and lora_rank=0 leaves "
                    "nothing to train. Set lora_rank."
                )
            if self.adapter:
                raise ValueError(
                    "lora_rank=0 trains all weights and has no adapter. Leave out "
                    "lora_rank, or merge the adapter into the model first (lora.merge)."
                )
            if self.dtype in ("float16", "bfloat16"):
                raise ValueError(
                    f"dtype={self.dtype!r} with lora_rank=0: Adam's steps are smaller than "
                    f"what {self.dtype} can hold, so the weights would stay as they are or "
                    f"become NaN. Take dtype='mixed_{self.dtype}', which keeps float32 "
                    "weights."
                )
        if self.quantize == "int8" and "float16" in (self.dtype or "").split("_"):
            raise ValueError(
                f"quantize='int8' with dtype={self.dtype!r}: Keras's int8 layers do not "
                "compute in float16. Take quantize='int4', or dtype='bfloat16'."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(RunConfig):
    """Settings of training on given rows."""

    mesh: str | None = None
    """How several devices share the work, such as data=8 or fsdp=2,model=4 (JAX only; see
    docs/plan.md). None means one device."""
    several_hosts: bool = False
    """Whether the same command runs on several hosts, whose devices make up the mesh. Their
    `out` must be one folder on a shared file system (JAX only; see docs/plan.md)."""
    batch_tokens: int = 8192
    """The number of tokens in an update, including padding."""
    z_loss: float = 0.0
    """The weight of the squared logarithm of the softmax's sum, which is added to the
    training loss and never to the held-out loss. 1e-4 keeps logits from drifting in long
    runs."""

    # Watching, in updates. log_every divides evaluate_every and save_every.
    log_every: int = 1
    """The number of updates between two lines of the log."""
    patience: int = 0
    """The run ends early after this many evaluations in a row without a new best one. 0
    means that it never ends early."""
    peak_tflops: float | None = None
    """The peak of one device in 10^12 operations a second, from which the reached share
    (MFU) is computed. None means that of the data sheet, if the chip is known."""
    tensorboard: bool = False
    """Whether to write the log as TensorBoard events too (needs tensorboardX)."""

    def __post_init__(self):
        super().__post_init__()
        for name, low in {"batch_tokens": 1, "log_every": 1, "patience": 0}.items():
            if getattr(self, name) is not None:
                at_least(self, name, low)
        if self.peak_tflops is not None:
            above(self, "peak_tflops", 0)
        at_least(self, "z_loss", 0)
        if self.several_hosts and not self.mesh:
            raise ValueError(
                "several_hosts=True needs a mesh over the devices of all hosts, such as "
                "mesh='fsdp=16'."
            )
        self._check_divisors()

    def _check_divisors(self):
        for name in ("evaluate_every", "save_every"):
            if getattr(self, name) % self.log_every:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be a multiple of "
                    f"log_every={self.log_every}."
                )
        if None in (self.sequence_length, self.batch_tokens):
            return
        least = self.sequence_length * self.accumulation
        if self.batch_tokens % least:
            raise ValueError(
                f"batch_tokens={self.batch_tokens} must be a multiple of sequence_length x "
                f"accumulation = {self.sequence_length} x {self.accumulation}. Give for "
                f"example {max(1, round(self.batch_tokens / least)) * least}."
            )


def at_least(config, name, low):
    """Check that a field is not below `low`."""
    value = getattr(config, name)
    if not (isinstance(value, (int, float)) and value >= low and math.isfinite(value)):
        raise ValueError(f"{name}={value!r} must be at least {low}.")


def above(config, name, low):
    """Check that a field is greater than `low`."""
    value = getattr(config, name)
    if not (isinstance(value, (int, float)) and value > low and math.isfinite(value)):
        raise ValueError(f"{name}={value!r} must be greater than {low}.")


def between(config, name, low, high, below=False):
    """Check that a field lies between `low` and `high`; with `below`, not on `high`."""
    value = getattr(config, name)
    fine = isinstance(value, (int, float)) and low <= value <= high
    if not fine or (below and value == high):
        limit = f"below {high}" if below else f"at most {high}"
        raise ValueError(f"{name}={value!r} must be at least {low} and {limit}.")


def with_adapter(config, default_rank):
    """The settings with nothing of the adapter left to derive.

    Args:
        config: `TrainingConfig`.
        default_rank: rank where neither the settings nor an adapter to start from say one.

    Raises:
        FileNotFoundError: `adapter` is a folder without an adapter.
        ValueError: the settings ask for another adapter than the one to start from.
    """
    chosen = {
        "lora_rank": default_rank,
        "lora_alpha": None,
        "lora_dropout": 0.0,
        "lora_targets": None,
    }
    if config.adapter:
        file = pathlib.Path(config.adapter).expanduser() / ADAPTER_CONFIG
        if not file.exists():
            raise FileNotFoundError(
                f"adapter={config.adapter!r} holds no {ADAPTER_CONFIG}: it is no adapter "
                "in PEFT's format."
            )
        stored = json.loads(file.read_text("utf-8"))
        chosen["lora_rank"] = stored.get("r")
        chosen["lora_alpha"] = stored.get("lora_alpha")
        chosen["lora_dropout"] = stored.get("lora_dropout", 0.0)
        targets = stored.get("target_modules")
        if isinstance(targets, list):
            chosen["lora_targets"] = tuple(sorted(targets))
    for name, value in chosen.items():
        asked = getattr(config, name)
        if asked is None:
            continue
        if name == "lora_targets":
            asked = tuple(sorted(asked))
        if config.adapter and asked != value:
            raise ValueError(
                f"{name}={asked!r}, but the adapter in {config.adapter} has {value!r}. "
                f"Leave {name} out, or start a new adapter."
            )
        chosen[name] = asked
    if chosen["lora_alpha"] is None:
        chosen["lora_alpha"] = 2.0 * chosen["lora_rank"] or 1.0
    return dataclasses.replace(config, **chosen)


# --- Settings in the folder of a run ------------------------------------------------

# What may be changed between the parts of a run without changing what it computes.
MAY_CHANGE = {
    "out",
    "accumulation",
    "remat",
    "mesh",
    "several_hosts",
    "save_every",
    "keep",
    "peak_tflops",
    "tensorboard",
}


def keep_settings(config, **more):
    """Write `config.json`, or refuse to go on with a run of other settings.

    Args:
        config: `TrainingConfig`.
        more: further values to write down.

    Raises:
        ValueError: `out` has checkpoints of a run with other settings.
    """
    out = pathlib.Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    new = json.loads(json.dumps({**dataclasses.asdict(config), **more}))
    file = out / "config.json"
    if file.exists() and any(out.glob("checkpoints/step-*")):
        old = json.loads(file.read_text())
        changed = sorted(
            name
            for name in (old.keys() | new.keys()) - MAY_CHANGE
            if old.get(name) != new.get(name)
        )
        if changed:
            listed = ", ".join(f"{n}: {old.get(n)} -> {new.get(n)}" for n in changed)
            raise ValueError(
                f"{out} holds a run with other settings ({listed}). Go on with those, or "
                "choose another `out`; nothing was changed."
            )
    if hosts.is_first():
        files.put(file, (json.dumps(new, indent=2) + "\n").encode())
    hosts.wait("settings written")


def digest(file) -> str:
    """A hash of a file, to notice that data have changed since a run began."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()[:32]
