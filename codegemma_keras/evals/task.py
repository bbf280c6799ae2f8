"""What a benchmark is: pure functions from problems to prompts, answers and verdicts.

A `Task` is one benchmark under one convention. It reads nothing and runs nothing: its
module made it from rows, and `run` asks the model and the sandbox.

    problem ──prompt──▶ text, Hole, Message ──model──▶ text ──answer──▶ answer
            ──prompt──▶ Choices ──model──▶ log-likelihoods ──choose──▶ right or wrong
    answer ──program──▶ program ──case──▶ program and tests for the sandbox
           ──right──▶ bool, for tasks that are no programs
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.tasks.code_blocks import code_of

CONVENTIONS = ("paper", "openai", "bigcode", "lm-eval", "editor")
SECONDS = 10.0  # that a program may take, where neither task nor user says otherwise


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: str, unlike any other of its task.
        row: the fields of the data.
    """

    id: str
    row: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Hole:
    """A place between two texts, to be filled.

    Attributes:
        prefix, suffix: str, the texts.
        as_typed: whether it is filled as for somebody who types, by
            `complete(prefix, suffix, tidy=True)`: in the preset's own way, and ended and
            fitted in by rules. Otherwise CodeGemma's sentinels ask, and nothing is
            changed.
    """

    prefix: str
    suffix: str
    as_typed: bool = False


@dataclasses.dataclass(frozen=True)
class Message:
    """What a user says to a model that chats."""

    text: str


@dataclasses.dataclass(frozen=True)
class Choices:
    """Texts of which the model is to find one the most probable.

    Attributes:
        contexts: one for each choice; mostly the same.
        texts: the choices, without the space that stands before each.
        gold: index of the right one.
    """

    contexts: tuple[str, ...]
    texts: tuple[str, ...]
    gold: int

    @property
    def continuations(self) -> tuple[str, ...]:
        """What follows each context."""
        return tuple(f" {text}" for text in self.texts)


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and the tests that judge it; see `sandbox.check`.

    Attributes:
        program: str, with the model's answer in it; never trusted.
        tests: str, Python that calls functions of the program by name; trusted.
        names: of these functions. Empty: the tests run in the program's own process, for
            they make objects of its classes; a program can deceive such tests.
        helpers: str, Python that `tests` needs besides; trusted.
    """

    program: str
    tests: str
    names: tuple[str, ...]
    helpers: str = ""


Prompt = str | Hole | Message | Choices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark under one convention.

    Attributes:
        name: str, as on the command line.
        convention: one of `CONVENTIONS`.
        problems: all of them, in the order of the data.
        prompt: what the model is asked.
        max_new_tokens: most new tokens of an answer; 0 for choices.
        max_tokens: most tokens of prompt and answer together, where a convention limits
            both; None: the model's context does.
        stop_strings: an answer ends before the first of these.
        answer: what is judged of a model's text; the default is all of it.
        program: the whole program that an answer makes; None where it makes none.
        case: judges a whole program in the sandbox.
        check_all: cases to results, in order, for cases that are no `Case`; it is given
            the `evaluation.Judging`, too.
        right: judges an answer by comparison; None where `case` judges.
        by_length: of choices, whether the score divides log-likelihoods by the lengths of
            the texts in characters: `acc_norm` of lm-evaluation-harness.
        canonical: the benchmark's own answer.
        message: the problem as a user would put it to a model that chats; None where a
            conversation makes no sense.
        message_program: `program` for answers to such messages, if it is another.
        probe: the problem as `decontaminate` looks for it; None where nothing is to be
            looked for.
        size: problems of the whole benchmark, which the data may hold a part of; None:
            the data are all there is.
        seconds: that a program may take, of the wall clock.
        lacking: why programs cannot be judged on this machine, such as a compiler that is
            to be installed; None where they can.
        notes: what the convention leaves open, and what was chosen.
    """

    name: str
    convention: str
    problems: Sequence[Problem]
    prompt: Callable[[Problem], Prompt]
    max_new_tokens: int
    max_tokens: int | None = None
    stop_strings: tuple[str, ...] = ()
    answer: Callable[[Problem, str], str] = lambda problem, text: text
    program: Callable[[Problem, str], str] | None = None
    case: Callable[[Problem, str], Any] | None = None
    check_all: Callable[[Sequence[Any], Any], list] | None = None
    right: Callable[[Problem, str], bool] | None = None
    by_length: bool = False
    canonical: Callable[[Problem], str] | None = None
    message: Callable[[Problem], str] | None = None
    message_program: Callable[[Problem, str], str] | None = None
    probe: Callable[[Problem], decontaminate.Task] | None = None
    size: int | None = None
    seconds: float = SECONDS
    lacking: Callable[[], str | None] = lambda: None
    notes: tuple[str, ...] = ()

    @property
    def of_choices(self) -> bool:
        """Whether its prompts are `Choices`."""
        return self.max_new_tokens == 0


def in_chat(task: Task) -> Task:
    """The same task, asked in the chat format and without worked examples.

    Raises:
        ValueError: a conversation about it makes no sense.
    """
    if task.message is None:
        why = "compares likelihoods" if task.of_choices else "is asked at a cursor"
        raise ValueError(
            f"{task.name} {why}, so it has no chat form. Leave out --chat."
        )

    changed = {"answer": lambda problem, text: code_of(text)} if task.case else {}
    return dataclasses.replace(
        task,
        prompt=lambda problem: Message(task.message(problem)),
        program=task.message_program or task.program,
        stop_strings=(),
        notes=(*task.notes, "Asked in the chat format, without worked examples."),
        **changed,
    )


def choose_convention(task: str, asked: str, known: Mapping[str, Any], why=None) -> Any:
    """What a task's table of conventions has under the name `asked`.

    Args:
        task: its name, for the error.
        asked: a convention.
        known: `{convention: settings}`.
        why: `{convention: reason}` for some that are not known.

    Raises:
        ValueError: there is no such convention for this task.
    """
    if asked not in CONVENTIONS:
        raise ValueError(f"convention={asked!r} must be one of {CONVENTIONS}.")
    if asked not in known:
        usual = {"editor": "an editor asks only for text at a cursor"}
        reason = {**usual, **(why or {})}.get(asked, f"{asked} has no such task")
        raise ValueError(
            f"{task} cannot follow the convention {asked!r}: {reason}. It knows "
            f"{', '.join(known)}."
        )
    return known[asked]


def few_shot(shots: Sequence[str], question: str, between: str = "\n\n") -> str:
    """Solved examples and a question, with `between` after each example."""
    return "".join(shot + between for shot in shots) + question
