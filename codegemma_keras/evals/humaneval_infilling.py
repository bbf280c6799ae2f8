"""HumanEval Infilling: fill a hole in a right solution (Bavarian et al. 2022).

Four sets of holes: every single line (1,033), every run of lines (5,815), random spans
(1,640, and 164 of them as "light"). The line sets follow from HumanEval by a rule, which
is written here; the random spans are data. Source: openai/human-eval-infilling.
"""

import dataclasses
import functools
from collections.abc import Callable

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.evals import data, humaneval
from codegemma_keras.evals.task import Hole, Problem, Prompt, Task, choose_convention

KEYS = ("task_id", "prompt", "suffix", "canonical_solution", "test", "entry_point")
PAGE = "https://github.com/openai/human-eval-infilling"
SPANS = {
    "random": data.Source("HumanEval-RandomSpanInfilling", KEYS, PAGE),
    "light": data.Source("HumanEval-RandomSpanInfillingLight", KEYS, PAGE),
}
SIZES = {"single": 1033, "multi": 5815, "random": 1640, "light": 164}
LINES = {"single": "SingleLineInfilling", "multi": "MultiLineInfilling"}


@dataclasses.dataclass(frozen=True)
class Convention:
    """How one harness asks for a middle.

    Attributes:
        prompt: `(text before, text after)` to what the model is asked.
        max_new_tokens: most new tokens.
        single_stops: stop strings of the single-line set.
        whole_lines: whether a hole of lines is asked for as an empty line, whose line end
            is there already.
        notes: what the convention leaves open, and what was chosen.
    """

    prompt: Callable[[str, str], Prompt] = Hole
    max_new_tokens: int = 128
    single_stops: tuple[str, ...] = ()
    whole_lines: bool = False
    notes: tuple[str, ...] = ()


CONVENTIONS = {
    # Table 2: 128 tokens, greedy, batch 1; the middle ends at a sentinel or eos.
    "paper": Convention(),
    "openai": Convention(
        max_new_tokens=512,
        notes=(
            "The format of the prompt and the stops are free. Chosen: CodeGemma's own "
            "prompt, which ends at a sentinel, and 512 tokens.",
        ),
    ),
    "lm-eval": Convention(
        prompt=lambda before, after: f"{after}\n\n{before}",
        max_new_tokens=1024,
        single_stops=("\n",),
        notes=(
            "lm-evaluation-harness asks with the suffix, an empty line and the prefix, "
            "and no sentinels: it measures no fill-in-the-middle.",
        ),
    ),
    "editor": Convention(
        prompt=functools.partial(Hole, as_typed=True),
        whole_lines=True,
        notes=(
            "Asked as by an editor, with complete(prefix, suffix, tidy=True): in the "
            "preset's own way, the text ended and fitted in by rules. For missing lines "
            "the cursor stands in an empty line.",
        ),
    ),
}


def make(name: str, convention: str, rows: data.Data) -> Task:
    """The task `humaneval-infilling-KIND`; KIND is single, multi, random or light."""
    kind = name.rpartition("-")[2]
    how = choose_convention(
        name,
        convention,
        CONVENTIONS,
        {"bigcode": "bigcode's harness has no task that fills in and runs HumanEval"},
    )
    if kind in SPANS:
        found = rows.rows(SPANS[kind])
    else:
        found = line_holes(rows.rows(humaneval.SOURCE), kind)

    line_end = "\n" * (how.whole_lines and kind in LINES)

    def suffix(problem):
        return line_end + problem.row["suffix"]

    def canonical(problem):
        text = problem.row["canonical_solution"]
        return text.removesuffix(line_end)

    def prompt(problem):
        return how.prompt(problem.row["prompt"], suffix(problem))

    def program(problem, answer):
        return problem.row["prompt"] + answer + suffix(problem)

    def case(problem, text):
        right = program(problem, canonical(problem))
        return humaneval.function_case(problem.row, text, right)

    return Task(
        name=name,
        convention=convention,
        problems=[Problem(row["task_id"], row) for row in found],
        prompt=prompt,
        max_new_tokens=how.max_new_tokens,
        stop_strings=how.single_stops if kind == "single" else (),
        program=program,
        case=case,
        canonical=canonical,
        probe=lambda problem: decontaminate.task_of(problem.row, problem.id),
        size=SIZES[kind],
        notes=how.notes,
    )


def line_holes(rows, kind: str) -> list[dict]:
    """The single-line or multi-line set of HumanEval's rows, as OpenAI's files have it.

    Holes begin and end at lines that are not blank. Of the last line its line end is
    not part of the hole.
    """
    holes = []
    for row in rows:
        lines = row["canonical_solution"].split("\n")
        full = [number for number, line in enumerate(lines) if line.strip()]
        for first in full:
            ends = [first] if kind == "single" else [n for n in full if n >= first]
            for last in ends:
                place = f"L{first}" if kind == "single" else f"L{first}_L{last}"
                before = "".join(f"{line}\n" for line in lines[:first])
                line_end = "\n" * (last < len(lines) - 1)
                holes.append(
                    {
                        "task_id": f"{LINES[kind]}/{row['task_id']}/{place}",
                        "entry_point": row["entry_point"],
                        "prompt": row["prompt"] + (before or "\n"),
                        "suffix": "\n".join(lines[last + 1 :]),
                        "canonical_solution": "\n".join(lines[first : last + 1])
                        + line_end,
                        "test": row["test"],
                    }
                )
    return holes
