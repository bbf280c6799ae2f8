"""Rewards: functions that judge answers, with TRL's signature.

    def reward(prompts, completions, **columns) -> list[float | None]

`prompts` and `completions` are texts, one of each for every answer; a column, such as
`answer` or `tests`, has a value for every answer, None where its prompt has no such
column. A reward returns a number for every answer, or None where it does not apply. The
reward of an answer is the weighted sum of those that apply.

A reward of your own is named by `module:function`, or by `file.py:function`. What it
gets wrong (an exception, NaN, another number of values) ends the run with its name: a run
on wrong rewards would only look like training.

Programs are judged in the sandbox, by tests in another process than theirs, and formulas
in a process of their own (`rl.mathematics`): nothing that a model wrote runs here.
"""

import contextlib
import functools
import importlib
import importlib.util
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from codegemma_keras import sandbox
from codegemma_keras.rl.mathematics import equal
from codegemma_keras.tasks.code_blocks import PYTHON, blocks, code_of
from codegemma_keras.tasks.prompts import Prompt

Reward = Callable[..., list]


def passes_tests(
    prompts,
    completions,
    tests=None,
    names=None,
    after=None,
    wrapper=None,
    sandboxes=None,
    **columns,
):
    r"""1 if the program passes all of its tests in the sandbox, else 0.

    The program is the code of the answer; for infilling, prompt, answer and what stands
    `after` the cursor.

    Columns:
        tests: list of str, each a line of Python that calls the functions and raises.
        names: list of str, the functions that the tests call.
        wrapper: str, where the answer is no Python: a program in which `ANSWER` stands
            for its text.

    Examples:
        >>> answers = ["```python\ndef double(x):\n    return 2 * x\n```", "No."]
        >>> tests, names = [["assert double(4) == 8"]] * 2, [["double"]] * 2
        >>> passes_tests(["Double it."] * 2, answers, tests=tests, names=names)
        [1.0, 0.0]
    """
    if tests is None:
        return [None] * len(prompts)
    programs = _programs(prompts, completions, after, wrapper)
    judged = [place for place, each in enumerate(tests) if each is not None]
    cases = [(programs[p], "\n".join(tests[p]), list(names[p])) for p in judged]
    found = [None] * len(prompts)
    results = (sandboxes or Sandboxes()).check(cases)
    for place, result in zip(judged, results, strict=True):
        found[place] = float(result.passed)
    return found


def share_of_tests(
    prompts,
    completions,
    tests=None,
    names=None,
    after=None,
    wrapper=None,
    sandboxes=None,
    **columns,
):
    r"""The share of its tests that the program passes; each is run apart.

    The columns are those of `passes_tests`.

    Examples:
        >>> answers = ["```python\ndef double(x):\n    return x * x\n```"]
        >>> tests = [["assert double(2) == 4", "assert double(4) == 8"]]
        >>> share_of_tests(["Double it."], answers, tests=tests, names=[["double"]])
        [0.5]
    """
    if tests is None:
        return [None] * len(prompts)
    programs = _programs(prompts, completions, after, wrapper)
    cases, places = [], []
    for place, each in enumerate(tests):
        for test in each or ():
            cases.append((programs[place], test, list(names[place])))
            places.append(place)
    passed = [[] for _ in prompts]
    results = (sandboxes or Sandboxes()).check(cases)
    for place, result in zip(places, results, strict=True):
        passed[place].append(result.passed)
    return [
        None if each is None else float(np.mean(passed[place]))
        for place, each in enumerate(tests)
    ]


def _programs(prompts, completions, after, wrapper):
    """The program of each answer; see `passes_tests`."""
    found = []
    for place, (prompt, completion) in enumerate(
        zip(prompts, completions, strict=True)
    ):
        if after is not None and after[place] is not None:
            program = prompt + completion + after[place]
        elif wrapper is not None and wrapper[place] is not None:
            text = code_of(completion, languages=()).strip()
            program = wrapper[place].replace("ANSWER", repr(text))
        else:
            program = code_of(completion)
        found.append(program)
    return found


def right_answer(prompts, completions, answer=None, sandboxes=None, **columns):
    """1 if the final answer equals the column `answer` as mathematics, else 0.

    Examples:
        >>> right_answer(
        ...     ["2 + 2?"] * 2, ["Answer: 4.0", "Answer: 5"], answer=["4", "4"]
        ... )
        [1.0, 0.0]
    """
    answer = [None] * len(completions) if answer is None else answer
    asked = [place for place, gold in enumerate(answer) if gold is not None]
    verdicts = equal(
        [completions[place] for place in asked],
        [answer[place] for place in asked],
        (sandboxes or Sandboxes()).isolation,
    )
    found = [None] * len(completions)
    for place, verdict in zip(asked, verdicts, strict=True):
        found[place] = verdict
    return found


def has_format(prompts, completions, tests=None, answer=None, after=None, **columns):
    """1 for an answer in the form that was asked for: one block of code, or `Answer:`.

    Examples:
        >>> has_format(["2 + 2?"] * 2, ["It is 4.", "Answer: 4"], answer=["4", "4"])
        [0.0, 1.0]
    """
    found = []
    for place, completion in enumerate(completions):
        if answer is not None and answer[place] is not None:
            found.append(float(completion.count("Answer:") == 1))
        elif (
            tests is not None
            and tests[place] is not None
            and (after is None or after[place] is None)
        ):
            found.append(float(_blocks_of_python(completion) == 1))
        else:
            found.append(None)
    return found


def _blocks_of_python(completion):
    return sum(b.closed and b.language in PYTHON for b in blocks(completion))


def shortness(prompts, completions, **columns):
    """From 1 for no text down to 0 at 2,000 characters.

    Examples:
        >>> shortness(["?"] * 3, ["", "x" * 500, "x" * 9999])
        [1.0, 0.75, 0.0]
    """
    return [max(0.0, 1.0 - len(text) / 2000) for text in completions]


REWARDS: dict[str, Reward] = {
    "tests": passes_tests,
    "share-of-tests": share_of_tests,
    "answer": right_answer,
    "format": has_format,
    "shortness": shortness,
}
TASK = ("tests", "answer")  # what the tasks of this package are judged by
_ISOLATED = {"tests", "share-of-tests", "answer"}


class Sandboxes:
    """Warm sandboxes, started when the first program is to be judged; a context.

    Args:
        isolation: the weakest of `sandbox.LEVELS` that programs may run in.

    Examples:
        >>> case = "def double(x): return 2 * x", "assert double(4) == 8", ["double"]
        >>> with Sandboxes() as sandboxes:
        ...     [result] = sandboxes.check([case])
        >>> result.passed
        True
    """

    def __init__(self, isolation="bubblewrap"):
        self.isolation = isolation
        self._entered, self._pool = False, None

    def __enter__(self):
        self._entered = True
        return self

    def __exit__(self, *error):
        if self._pool is not None:
            self._pool.close()

    def check(self, cases) -> list[sandbox.Result]:
        """`sandbox.check_all`; outside a context, with sandboxes for this call alone."""
        if not cases:
            return []
        if self._entered and self._pool is None:
            self._pool = sandbox.Pool(least=self.isolation)
        return sandbox.check_all(cases, least=self.isolation, pool=self._pool)


@contextlib.contextmanager
def opened(names: Sequence[str], isolation: str = "bubblewrap"):
    """The rewards of names, as `(weight, name, function)`; a context.

    Args:
        names: keys of `REWARDS`, `module:function` or `file.py:function`; `0.1*name`
            gives a weight.
        isolation: the weakest of `sandbox.LEVELS` that programs may run in.

    Raises:
        ValueError: there is no such reward, or its weight is no number.

    Examples:
        >>> with opened(["answer", "0.1*shortness"]) as rewards:
        ...     [(weight, name) for weight, name, _ in rewards]
        [(1.0, 'answer'), (0.1, 'shortness')]
    """
    with Sandboxes(isolation) as sandboxes:
        yield [_named(name, sandboxes) for name in names]


def _named(name, sandboxes):
    factor, star, rest = name.rpartition("*")
    rest = rest.strip()
    try:
        weight = float(factor) if star else 1.0
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"rewards has {name!r}: {factor!r} is no weight.")
    function = _function(rest)
    if rest in _ISOLATED:
        function = functools.partial(function, sandboxes=sandboxes)
    return weight, rest, function


def _function(name):
    if name in REWARDS:
        return REWARDS[name]
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(
            f"rewards has {name!r}; there are {', '.join(REWARDS)}, and your own as "
            "module:function or file.py:function."
        )
    try:
        if place.endswith(".py"):
            file = pathlib.Path(place).expanduser()
            spec = importlib.util.spec_from_file_location(file.stem, file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        return getattr(module, attribute)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise ValueError(
            f"The reward {name!r} could not be loaded: {error}."
        ) from error


def score(
    rewards: Sequence[tuple[float, str, Reward]],
    prompts: Sequence[Prompt],
    completions: Sequence[str],
) -> np.ndarray:
    """The reward of each answer; NaN where no reward applies.

    Args:
        rewards: `(weight, name, function)` each.
        prompts: of each answer.
        completions: the answers' texts.

    Raises:
        ValueError: a reward raised or returned something else than its signature says;
            no reward applies to any answer.

    Examples:
        >>> prompt = Prompt("sums", "2 + 2?", columns={"answer": "4"})
        >>> with opened(["answer", "0.1*shortness"]) as rewards:
        ...     score(rewards, [prompt] * 2, ["Answer: 4", ""]).round(4).tolist()
        [1.0996, 0.1]
    """
    columns = {name: None for prompt in prompts for name in prompt.columns}
    for name in columns:
        columns[name] = [prompt.columns.get(name) for prompt in prompts]
    columns["family"] = [prompt.family for prompt in prompts]
    columns["after"] = [prompt.suffix for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    table = np.full((len(rewards), len(prompts)), np.nan)
    for line, (weight, name, function) in zip(table, rewards, strict=True):
        try:
            values = function(texts, list(completions), **columns)
        except RuntimeError:
            raise  # the sandbox is missing, and says so
        except Exception as error:
            raise ValueError(
                f"The reward {name!r} raised {type(error).__name__}: {error}"
            ) from error
        line[:] = _checked(name, values, completions)
        line *= weight
    applies = np.isfinite(table)
    if len(prompts) and not applies.any():
        raise ValueError(
            f"None of the rewards {[name for _, name, _ in rewards]} applies to any "
            f"answer of {sorted(set(columns['family']))}: every one is None. Name a reward "
            "that judges these prompts."
        )
    total = np.where(applies, table, 0.0).sum(axis=0)
    return np.where(applies.any(axis=0), total, np.nan)


def _checked(name, values, completions):
    """What a reward returned, as floats; None is NaN."""
    try:
        values = list(values)
    except TypeError:
        raise ValueError(
            f"The reward {name!r} returned {values!r:.60}; it must return a list with a "
            "number or None for each answer."
        ) from None
    if len(values) != len(completions):
        raise ValueError(
            f"The reward {name!r} returned {len(values)} values for "
            f"{len(completions)} answers; it must return one for each."
        )
    for value, completion in zip(values, completions, strict=True):
        number = isinstance(value, (bool, int, float, np.number))
        if value is not None and not (number and math.isfinite(value)):
            raise ValueError(
                f"The reward {name!r} returned {value!r:.60} for the answer "
                f"{completion[:60]!r}; give a finite number, or None where it does not "
                "apply."
            )
    return [math.nan if value is None else float(value) for value in values]
