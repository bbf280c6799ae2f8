"""`babelcode-humaneval-rust` and the like: a set's problems, asked in one language.

The paper's table 4 has 161 problems of HumanEval and 342 of MBPP; which 342, it does not
say. Here every problem that has a counterpart in the language is asked (149 and 444), so
only the percentages of one generator compare.
"""

import dataclasses

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.evals import babelcode, data, humaneval, mbpp
from codegemma_keras.evals.task import Problem, Task, choose_convention
from codegemma_keras.sandbox import LANGUAGES, MissingToolchainError
from codegemma_keras.sandbox.languages import toolchain

MAX_NEW_TOKENS = 512
SIZES = {"humaneval": 149, "mbpp": 444}  # problems that have a counterpart
WHY = dict.fromkeys(
    ("openai", "bigcode", "lm-eval"), "that harness has no problems of BabelCode"
)


def make(name: str, convention: str, rows: data.Data) -> Task:
    """A task of `babelcode.NAMES`."""
    note = (
        "Which of BabelCode's limits the paper used, it does not state. Chosen: no "
        f"examples, {MAX_NEW_TOKENS} tokens, an end at the language's stop words."
    )
    choose_convention(name, convention, {"paper": None}, WHY)
    _, of, language = name.split("-")
    if of == "humaneval":
        found, read = rows.rows(humaneval.SOURCE), babelcode.from_humaneval
    else:
        found = [r for r in rows.rows(mbpp.SOURCE) if int(r["task_id"]) in mbpp.TEST]
        read = babelcode.from_mbpp
    problems, left_out = {}, []
    for row in found:
        try:
            problem = read(row)
        except babelcode.UntranslatableError as error:
            left_out.append(f"{row['task_id']} ({error})")
            continue
        problems[problem.task_id] = (row, problem)

    def prompt(problem):
        return babelcode.prompt(problems[problem.id][1], language)

    def case(problem, program):
        return problems[problem.id][1], language, program

    notes = [note]
    if left_out:
        notes.append(
            f"{len(left_out)} of {len(found)} problems have no counterpart in languages "
            f"with types: {'; '.join(left_out)}."
        )
    return Task(
        name=name,
        convention=convention,
        problems=[Problem(id_, row) for id_, (row, _) in problems.items()],
        prompt=prompt,
        max_new_tokens=MAX_NEW_TOKENS,
        stop_strings=babelcode.TARGETS[language].stops,
        program=lambda problem, answer: (
            prompt(problem) + babelcode.finished(answer, language)
        ),
        case=case,
        check_all=check_all,
        # Of the set: a row in Python is what stands in other people's files.
        probe=lambda problem: decontaminate.task_of(problem.row, problem.id),
        size=SIZES[of],
        seconds=LANGUAGES[language].limits.seconds,
        lacking=lambda: lacking(language),
        notes=tuple(notes),
    )


def lacking(language: str) -> str | None:
    """What is to be installed before a language can be run here."""
    try:
        toolchain(language)
    except MissingToolchainError as error:
        return str(error)
    return None


def check_all(cases, judging) -> list:
    """Results of `(problem, language, program)` each, of one language.

    Limits are the language's own, but for the seconds if `judging` states them.
    """
    limits = LANGUAGES[cases[0][1]].limits if cases else None
    if limits and judging.seconds is not None:
        limits = dataclasses.replace(limits, seconds=judging.seconds)
    how = {"least": judging.least, "workers": judging.workers}
    return babelcode.judge_all(cases, limits, **how)
