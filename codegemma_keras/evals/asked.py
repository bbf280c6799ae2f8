"""What goes to a model and what comes back, as plain values."""

import dataclasses

from codegemma_keras.evals.task import Hole


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt as the model gets it.

    Attributes:
        ids: token ids, bos included.
        max_new_tokens: what the context leaves of the task's limit.
        truncated: whether the prompt lost something because it did not fit.
        hole: what is asked instead of the ids, by the rules of an editor.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    truncated: bool
    hole: Hole | None = None


@dataclasses.dataclass(frozen=True)
class Text:
    """What the model wrote.

    Attributes:
        text: cut before any control token and any stop string.
        stop_reason: as of `decoding.Completion`.
        new_tokens: how many tokens were decoded.
    """

    text: str
    stop_reason: str
    new_tokens: int
