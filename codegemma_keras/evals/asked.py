"""What goes to a model and what comes back, as plain values."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt as the model gets it.

    Attributes:
        ids: token ids, bos included.
        max_new_tokens: what the context leaves of the task's limit.
        truncated: whether the prompt lost something because it did not fit.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    truncated: bool


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
