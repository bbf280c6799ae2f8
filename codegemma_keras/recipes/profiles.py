"""Settings that suit a machine: which model, in which dtype, with rows of which length.

A notebook or a script names one profile, and every setting that depends on the machine
changes with it. The settings are those of `training.config.TrainingConfig`, so the recipes
and `codegemma plan` take them as they are:

    profile = profiles.find("2b-t4")
    config = profile.config(sft.SFTConfig, data="chats.jsonl", out="runs/chat")
    profile.command("plan sft")     the same as a command line
    lm, config = profile.load("chat", chat=True)        for a loop of your own

`benchmarks/profile_plans.py` plans each profile for its machine; the result is in
`benchmarks/results/profile_plans.json`. No profile of a GPU or a TPU has been run on its
machine yet.
"""

import dataclasses
import shlex

from codegemma_keras import CodeGemmaCausalLM, sharding
from codegemma_keras.training import config as settings
from codegemma_keras.training import model

OPTIONS = (
    *("preset", "dtype", "quantize", "lora_rank", "sequence_length", "batch_tokens"),
    *("accumulation", "remat", "mesh", "learning_rate"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """One machine with the settings that suit it.

    Attributes:
        name: as `find` takes it.
        machine: what people call it, for example "Colab's T4".
        preset: the model that continues text and fills in.
        chat_preset: the model that answers, or the one to teach answering.
        dtype: of what does not train; None lets the device decide.
        quantize: `"int8"` or `"int4"` stores the frozen matrices as integers.
        lora_rank: rank of the adapter; 0 trains all weights.
        sequence_length: tokens of a row.
        batch_tokens: tokens of an update, of all devices together.
        accumulation: parts in which an update is computed.
        remat: what is computed again in the backward pass.
        mesh: how several devices share the work.
        learning_rate: the highest.
        chat_learning_rate: the same for answers, of which there are fewer and shorter
            ones; None: `learning_rate`.
        on: the name of the chip for `codegemma plan --on`; None for a CPU.

    Examples:
        >>> find("7b-l4").quantize
        'int8'
    """

    name: str
    machine: str
    preset: str
    chat_preset: str
    dtype: str | None = None
    quantize: str | None = None
    lora_rank: int = 16
    sequence_length: int = 512
    batch_tokens: int = 512
    accumulation: int = 1
    remat: str = "none"
    mesh: str | None = None
    learning_rate: float = 2e-4
    chat_learning_rate: float | None = None
    on: str | None = None

    def options(self, *, chat: bool = False) -> dict:
        """The settings that differ from a recipe's defaults, by name.

        Args:
            chat: whether the model is to answer, in place of continuing text.

        Examples:
            >>> find("2b-t4x2").options()["mesh"]
            'data=2'
        """
        found = {name: getattr(self, name) for name in OPTIONS}
        if chat:
            found["preset"] = self.chat_preset
            found["learning_rate"] = self.chat_learning_rate or self.learning_rate
        return {name: value for name, value in found.items() if value is not None}

    def config(self, make, *, chat: bool = False, **more):
        """The settings of a recipe on this machine.

        Args:
            make: `recipes.pretrain.PretrainConfig` or `recipes.sft.SFTConfig`.
            chat: as in `options`.
            more: further settings; they win over the profile's.

        Returns:
            What `make` makes.

        Raises:
            TypeError, ValueError: as `make` does.

        Examples:
            >>> from codegemma_keras.recipes.sft import SFTConfig
            >>> find("2b-t4").config(SFTConfig, data="chats.jsonl").lora_rank
            16
        """
        return make(**{**self.options(chat=chat), **more})

    def command(self, recipe: str, *, chat: bool = False, **more) -> str:
        """The same as a command line.

        Args:
            recipe: `"pretrain"`, `"sft"`, or these with `"plan "` before them, which adds
                the name of the chip.
            chat, more: as in `config`.

        Raises:
            ValueError: there is nothing to plan for a CPU.

        Examples:
            >>> find("tiny").command("sft", data="chats.jsonl").split()[:4]
            ['codegemma', 'sft', '--preset', 'code_gemma_tiny_py']
        """
        if recipe.startswith("plan "):
            if self.on is None:
                raise ValueError(
                    f"profile {self.name!r} is for {self.machine}, which `codegemma plan` "
                    "does not know. Plan a profile with a GPU or a TPU."
                )
            more = {**more, "on": self.on}
        parts = ["codegemma", *recipe.split()]
        for name, value in {**self.options(chat=chat), **more}.items():
            parts += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(parts)

    def load(
        self, adapter: str, *, chat: bool = False, **more
    ) -> tuple[CodeGemmaCausalLM, settings.TrainingConfig]:
        """The model, with a new adapter that changes nothing yet, for a loop of your own.

        A mesh stays set for the whole process, as `keras.distribution` has it.
        `training.model.compile_model(lm, config, steps)` prepares `fit`.

        Args:
            adapter: a name for it.
            chat, more: as in `config`.

        Returns:
            The model, and its settings with nothing left to derive.

        Raises:
            OSError, ValueError: the preset cannot be had, or a setting cannot work.
            RuntimeError: there are not as many devices as the mesh has.

        Examples:
            >>> lm, config = find("tiny").load("repository", lora_rank=4)
            >>> lm.backbone.active_adapter, config.learning_rate
            ('repository', 0.001)
        """
        config = self.config(settings.TrainingConfig, chat=chat, **more)
        config = model.with_dtype(settings.with_adapter(config, self.lora_rank))
        if config.mesh:
            sharding.use(config.mesh, config.preset).__enter__()
        return model.load(config, adapter), config

    def __str__(self):
        base = f"{self.quantize} matrices" if self.quantize else "the whole preset"
        what = (
            f"an adapter of rank {self.lora_rank} over {base}"
            if self.lora_rank
            else "all weights"
        )
        rows = self.batch_tokens // self.sequence_length
        return (
            f"profile {self.name!r}, for {self.machine}: trains {what} of {self.preset} "
            f"with {rows} row{'s' if rows > 1 else ''} of {self.sequence_length:,} tokens"
        )


_2B, _7B = "code_gemma_1.1_2b_en", "code_gemma_1.1_instruct_7b_en"
# Without the adapter, which has seen GSM8K's training set and much public Python.
_SMOL, _TINY = "smollm2_135m", "code_gemma_tiny_py"
PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="tiny",
            machine="a CPU, without any download",
            preset=_TINY,
            chat_preset=_TINY,
            batch_tokens=2048,
            learning_rate=1e-3,
        ),
        Profile(
            name="smol",
            machine="two CPU cores",
            preset=_SMOL,
            chat_preset=_SMOL,
            learning_rate=1.5e-3,
            chat_learning_rate=5e-4,
        ),
        Profile(
            name="2b-t4",
            machine="a T4, as Colab and Kaggle have it",
            preset=_2B,
            chat_preset=_2B,
            dtype="float16",
            sequence_length=2048,
            batch_tokens=8192,
            accumulation=4,
            remat="block",
            on="t4",
        ),
        Profile(
            name="2b-t4x2",
            machine="Kaggle's two T4",
            preset=_2B,
            chat_preset=_2B,
            dtype="float16",
            sequence_length=2048,
            batch_tokens=8192,
            accumulation=2,
            remat="block",
            mesh="data=2",
            on="t4",
        ),
        Profile(
            name="2b-a100",
            machine="an A100 with 40 GB",
            preset=_2B,
            chat_preset=_2B,
            dtype="bfloat16",
            lora_rank=32,
            sequence_length=8192,
            batch_tokens=32768,
            accumulation=4,
            remat="block",
            on="a100-40",
        ),
        Profile(
            name="7b-l4",
            machine="an L4 with 24 GB",
            preset="code_gemma_7b_en",
            chat_preset=_7B,
            dtype="bfloat16",
            quantize="int8",
            sequence_length=2048,
            batch_tokens=8192,
            accumulation=4,
            remat="block",
            learning_rate=1e-4,
            on="l4",
        ),
        Profile(
            name="7b-tpu",
            machine="a TPU v5e-8, as Kaggle has it",
            preset="code_gemma_7b_en",
            chat_preset=_7B,
            dtype="bfloat16",
            sequence_length=4096,
            batch_tokens=32768,
            remat="block",
            mesh="fsdp=8",
            learning_rate=1e-4,
            on="v5e-8",
        ),
    )
}


def find(name: str) -> Profile:
    """A profile by its name.

    Raises:
        ValueError: the name is unknown; the message lists those that exist.

    Examples:
        >>> find("2b-a100").sequence_length
        8192
    """
    if name not in PROFILES:
        raise ValueError(
            f"profile={name!r} is unknown. Choose one of {', '.join(PROFILES)}."
        )
    return PROFILES[name]
