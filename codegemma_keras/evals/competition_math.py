"""MATH: competition problems whose answer is a formula (Hendrycks et al. 2021).

5,000 problems, asked with the four worked examples of Lewkowycz et al. 2022 ("Minerva").
The data are not shipped. Source: hendrycks/math, MIT.
"""

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.evals import data
from codegemma_keras.evals.task import Problem, Task, choose_convention, few_shot
from codegemma_keras.tasks import formulas

KEYS = ("problem", "solution")
PAGE = "https://github.com/hendrycks/math"
SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
SHOTS = data.Source("math_shots", KEYS, page="this package")
_NOTE = (
    "Answers are compared after Minerva's normalisation, and as rational numbers. "
    "lm-evaluation-harness also lets sympy compare what is left, so it may find a few more."
)
CONVENTIONS = {"paper": (_NOTE,), "lm-eval": (_NOTE,)}


def make(name: str, convention: str, rows: data.Data) -> Task:
    """The task `math`."""
    notes = choose_convention(
        name,
        convention,
        CONVENTIONS,
        dict.fromkeys(("openai", "bigcode"), "that harness has no MATH"),
    )
    problems = [
        Problem(f"MATH/{subject}/{number}", row)
        for subject in SUBJECTS
        for number, row in enumerate(rows.rows(source(subject)))
    ]
    shots = [f"{question(s)} {s['solution']}" for s in rows.rows(SHOTS)]
    return Task(
        name=name,
        convention=convention,
        problems=problems,
        prompt=lambda problem: few_shot(shots, question(problem.row)),
        max_new_tokens=512 if convention == "paper" else 256,
        stop_strings=("Problem:",),
        right=right,
        canonical=canonical,
        message=lambda problem: (
            f"{problem.row['problem']}\n\nReason step by step, and put the final answer "
            "within \\boxed{}."
        ),
        probe=lambda problem: decontaminate.Task(problem.id, problem.row["problem"]),
        size=5000,
        notes=notes,
    )


def source(subject: str) -> data.Source:
    """The test problems of a subject."""
    hub = ("EleutherAI/hendrycks_math", subject, "test")
    return data.Source(f"math_{subject}_test", KEYS, PAGE, hub=hub)


def question(row) -> str:
    return f"Problem:\n{row['problem']}\n\nSolution:"


def canonical(problem: Problem) -> str:
    """The benchmark's solution with Minerva's last sentence."""
    found = formulas.boxed(problem.row["solution"])
    last = f"Final Answer: The final answer is ${found}$. I hope it is correct."
    return f"{problem.row['solution']}\n{last}"


def right(problem: Problem, text: str) -> bool:
    """Whether the final answer equals the one in the solution's box."""
    return formulas.equal(
        formulas.final_answer(text), formulas.boxed(problem.row["solution"]) or ""
    )
