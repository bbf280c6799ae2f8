"""What a body of any API comes down to, and what is said when it cannot be."""

import dataclasses
from collections.abc import Sequence

import pydantic

from codegemma_keras.decoding import Request


@dataclasses.dataclass(frozen=True)
class Ask:
    """What is asked for, whatever the API.

    Attributes:
        requests: one for each prompt.
        n: how many answers to each.
        stream: whether text is sent as it comes.
        score_prompts: whether the log-probabilities of the prompts are wanted.
        line_limit_ms: end after so many milliseconds from the first token on, but not
            before the first line end (llama.cpp's `t_max_predict_ms`).
    """

    requests: Sequence[Request]
    n: int = 1
    stream: bool = False
    score_prompts: bool = False
    line_limit_ms: float | None = None


class ApiError(Exception):
    """An answer that says what is wrong.

    Args:
        status: of HTTP.
        message: one sentence for the client's user.
        retry_after: seconds to wait before trying again, or None.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class BusyError(ApiError):
    """Too much is waiting already, or the server is not ready to answer."""

    def __init__(self, message: str, retry_after: int = 1):
        super().__init__(503, message, retry_after)


class SupersededError(ApiError):
    """A newer request of the same editor takes its place."""

    def __init__(self):
        super().__init__(409, "A newer request of the same editor came.")


class Body(pydantic.BaseModel):
    """A request as one API writes it. Fields that are not declared are kept aside.

    Attributes:
        model: the model's name; empty means whichever there is.
    """

    model_config = pydantic.ConfigDict(
        extra="allow", allow_inf_nan=False, use_attribute_docstrings=True
    )

    model: str | None = None

    @property
    def ignored(self) -> list[str]:
        """Names of fields that this server does not know."""
        return list(self.model_extra or ())

    def immediate(self, model: str) -> dict | None:
        """An answer that needs no model; None, as usual, if it does."""
        return None

    def ask(self) -> Ask:
        """What is asked for.

        Raises:
            ValueError, TypeError: it cannot be, and why.
        """
        raise NotImplementedError

    def reply(self, model: str):
        """The `replies.Reply` that writes the answer; `model` is the name to give."""
        raise NotImplementedError

    def refuse(self, **neutral) -> None:
        """Raise ValueError if a field asks for what this server cannot do.

        Args:
            **neutral: for each field the value that asks for nothing; None does, too.
        """
        for name, value in neutral.items():
            asked = getattr(self, name)
            if asked is not None and asked != value:
                raise ValueError(
                    f"{name}={asked!r} is not supported by this server; leave it out."
                )
