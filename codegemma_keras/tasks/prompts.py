"""Prompts with what decides about their answers, by family, for reinforcement learning.

A *family* is one kind of task, made by rule and checked: `"maths/sum"`,
`"functions/plus"`. A *group* is all families of a name: `"maths"`. Every family divides
its tasks into those to train on and those held out by what is in them, never by a seed, so
the two never meet; and whole families can be held out, which training then never shows.

    train = made(["maths/sum", "functions"], 500)
    test = made(["maths/difference"], 100, held_out=True)

A prompt carries *columns*, such as the right answer or the tests, which rewards take by
name (`rl.rewards`).
"""

import dataclasses
import gzip
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codegemma_keras import chat, fim
from codegemma_keras.tasks import maths, programs


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked, and the columns that decide about an answer.

    Attributes:
        family: str, such as `"maths/sum"`.
        text: the user's question; for infilling the text before the cursor.
        suffix: None for a question; for infilling the text after the cursor.
        columns: name -> value; plain values.
    """

    family: str
    text: str
    suffix: str | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def parts(self) -> list[str]:
        """As rendered for the model, without bos."""
        if self.suffix is not None:
            return fim.render(self.text, self.suffix)
        message = {"role": "user", "content": self.text}
        return [part for part, _ in chat.render([message], add_generation_prompt=True)]

    def key(self) -> str:
        """The same for equal prompts alone."""
        return json.dumps([self.family, self.text, self.suffix])

    def held_out(self, share: float) -> bool:
        """Whether it is for evaluation; decided by its text alone."""
        digest = hashlib.blake2b(self.key().encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") < share * 2**32


def _maths(name, count, seed, held_out):
    for problem in maths.problems([name], count, seed, held_out=held_out):
        columns = {"answer": str(problem.answer)}
        yield Prompt(f"maths/{name}", problem.question, columns=columns)


def _questions(group, make):
    """Maker of prompts whose tasks are `(question, columns)`."""

    def prompts(name, count, seed, held_out):
        for text, columns in programs.distinct(make, name, count, seed, held_out):
            yield Prompt(f"{group}/{name}", text, columns=columns)

    return prompts


def _infilling(name, count, seed, held_out):
    make = programs.infilling_task
    for before, after, columns in programs.distinct(make, name, count, seed, held_out):
        yield Prompt(f"infilling/{name}", before, after, columns)


# group -> (its families, maker of prompts of one: name, count, seed, held_out)
GROUPS: dict[str, tuple[tuple[str, ...], Callable]] = {
    "maths": (tuple(maths.FAMILIES), _maths),
    "functions": (
        programs.FUNCTIONS,
        _questions("functions", programs.function_task),
    ),
    "infilling": (programs.INFILLING, _infilling),
    "regex": (programs.REGEX, _questions("regex", programs.regex_task)),
    "sql": (programs.SQL, _questions("sql", programs.sql_task)),
}


def families(names: Sequence[str]) -> list[str]:
    """The families of names, each a family or a group.

    Raises:
        ValueError: there is no such family or group.
    """
    known = {f"{group}/{name}" for group, (all_, _) in GROUPS.items() for name in all_}
    found = []
    for name in names:
        if name in GROUPS:
            found += [f"{name}/{each}" for each in GROUPS[name][0]]
        elif name in known:
            found.append(name)
        else:
            group = name.partition("/")[0]
            near = sorted(f for f in known if f.startswith(f"{group}/")) or GROUPS
            raise ValueError(
                f"There is no family of tasks {name!r}; there are {', '.join(near)}."
            )
    return list(dict.fromkeys(found))


def made(
    names: Sequence[str], count: int, seed: int = 0, *, held_out: bool = False
) -> list[Prompt]:
    """Distinct prompts, the families in turn.

    Args:
        names: of families or groups.
        count: how many in all; fewer if a family has no more.
        seed: decides which.
        held_out: those for evaluation instead of those for training.
    """
    chosen = families(names)
    each = -(-count // len(chosen)) if chosen else 0
    columns = []
    for family in chosen:
        group, _, name = family.partition("/")
        columns.append(list(GROUPS[group][1](name, each, seed, held_out)))
    turns = (
        column[place]
        for place in range(each)
        for column in columns
        if place < len(column)
    )
    return list({prompt.key(): prompt for prompt in turns}.values())[:count]


def read(file) -> list[Prompt]:
    """The prompts of a file: JSON lines, gzip or not.

    Each line has `"prompt"` and the columns that rewards take, or `"question"` and
    `"answer"`, of which GSM8K's ends with `#### 42`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no such object; it is named.
    """
    file = pathlib.Path(file).expanduser()
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    found = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                found.append(_prompt(json.loads(line), file.name.split(".")[0]))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
    return list({prompt.key(): prompt for prompt in found}.values())


def _prompt(example, family):
    if not isinstance(example, dict):
        raise ValueError("a prompt must be an object with columns.")
    columns = dict(example)
    text = columns.pop("prompt", None) or columns.pop("question", None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"it has the columns {sorted(example)}; it must have a text in 'prompt' or "
            "'question'."
        )
    if "####" in str(columns.get("answer")):
        answer = columns["answer"].rpartition("####")[2].strip().replace(",", "")
        columns["answer"] = answer
    suffix = columns.pop("suffix", None)
    return Prompt(str(columns.pop("family", family)), text, suffix, columns)
