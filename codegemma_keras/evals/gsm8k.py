"""GSM8K: word problems with a number for an answer (Cobbe et al. 2021).

1,319 problems, asked with the eight worked examples of Wei et al. 2022. Source:
openai/grade-school-math.
"""

import re

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.evals import data
from codegemma_keras.evals.task import Problem, Task, choose_convention, few_shot
from codegemma_keras.tasks import answers

SOURCE = data.Source(
    "gsm8k_test",
    keys=("question", "answer"),
    page="https://github.com/openai/grade-school-math",
    hub=("openai/gsm8k", "main", "test"),
    tfds=("gsm8k", "test"),
)
SHOTS = data.Source("gsm8k_shots", SOURCE.keys, page="this package")
CONVENTIONS = {
    "paper": (
        "Gemma's report states maj@1 and no examples. Chosen: the eight worked examples "
        "of Wei et al. 2022, and the number by its value.",
    ),
    "lm-eval": ("The task gsm8k_cot with its filter strict-match.",),
}
# The filter `strict-match` of lm-evaluation-harness.
STRICT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
STOPS = ("Q:", "</s>", "<|im_end|>")


def make(name: str, convention: str, rows: data.Data) -> Task:
    """The task `gsm8k`."""
    notes = choose_convention(
        name,
        convention,
        CONVENTIONS,
        {"openai": "OpenAI's code measures models that were tuned on GSM8K"},
    )
    problems = [
        Problem(f"GSM8K/{number}", row) for number, row in enumerate(rows.rows(SOURCE))
    ]
    shots = [f"Q: {s['question']}\nA: {s['answer']}" for s in rows.rows(SHOTS)]
    strict = convention == "lm-eval"
    return Task(
        name=name,
        convention=convention,
        problems=problems,
        prompt=lambda problem: few_shot(shots, f"Q: {problem.row['question']}\nA:"),
        max_new_tokens=256,
        stop_strings=STOPS,
        right=right_strictly if strict else right,
        canonical=lambda problem: canonical(problem, strict),
        message=lambda problem: (
            f"{problem.row['question']}\n\nReason step by step, and end with a line that "
            'says "The answer is" and the number.'
        ),
        probe=lambda problem: decontaminate.task_of(problem.row, problem.id),
        size=1319,
        notes=notes,
    )


def gold(problem: Problem) -> str:
    """The number after `####`, as the data have it."""
    return problem.row["answer"].rpartition("####")[2].strip()


def canonical(problem: Problem, strict: bool) -> str:
    """The benchmark's own solution; for the strict filter in the words of the examples."""
    text = problem.row["answer"]
    return (
        f"{text.rpartition('####')[0]}The answer is {gold(problem)}."
        if strict
        else text
    )


def right(problem: Problem, text: str) -> bool:
    """Whether the number in an answer has the right value."""
    found = answers.number(answers.stated(text))
    return found is not None and found == answers.number(gold(problem))


def right_strictly(problem: Problem, text: str) -> bool:
    """Whether lm-evaluation-harness would count an answer as an exact match."""
    found = STRICT.search(text)
    return bool(found) and _plain(found[1]) == _plain(gold(problem))


def _plain(text):
    return re.sub(r"\.$", "", text.replace(",", "").replace("$", "")).lower()
