"""Questions with given answers: which does the model find the most probable?

BoolQ, PIQA, HellaSwag, ARC, WinoGrande and MMLU in the words of lm-evaluation-harness
0.4, and TriviaQA, which is asked for a text. The data are not shipped.
"""

import dataclasses
import re
import string
from collections.abc import Callable

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.evals import data
from codegemma_keras.evals.task import (
    Choices,
    Problem,
    Task,
    choose_convention,
    few_shot,
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One benchmark of this sort.

    Attributes:
        source: its problems.
        choices: of a row.
        size, by_length: see `task.Task`.
        shots: worked examples in Gemma's report; they come from `examples`.
        examples: where they come from.
        subject: the field that an example must share with the problem, and that is named
            above them.
    """

    source: data.Source
    choices: Callable[[dict], Choices]
    size: int
    by_length: bool = False
    shots: int = 0
    examples: data.Source | None = None
    subject: str | None = None


def boolq(row):
    text = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    answer = row["label"] if "label" in row else row["answer"]
    return Choices((text,) * 2, ("no", "yes"), int(answer))


def piqa(row):
    text = f"Question: {row['goal']}\nAnswer:"
    return Choices((text,) * 2, (row["sol1"], row["sol2"]), int(row["label"]))


def hellaswag(row):
    text = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = tuple(without_marks(ending) for ending in row["endings"])
    contexts = (without_marks(text),) * len(endings)
    return Choices(contexts, endings, int(row["label"]))


def without_marks(text: str) -> str:
    """HellaSwag's text without what is left of WikiHow's layout."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def arc(row):
    texts = tuple(row["choices"]["text"])
    gold = list(row["choices"]["label"]).index(row["answerKey"])
    return Choices((f"Question: {row['question']}\nAnswer:",) * len(texts), texts, gold)


def winogrande(row):
    """The options stand in the context, and what follows is scored."""
    before, _, after = row["sentence"].partition("_")
    contexts = (before + row["option1"], before + row["option2"])
    return Choices(contexts, (after.strip(),) * 2, int(row["answer"]) - 1)


def mmlu(row):
    options = "".join(
        f"{letter}. {text}\n"
        for letter, text in zip("ABCD", row["choices"], strict=True)
    )
    text = f"{row['question'].strip()}\n{options}Answer:"
    return Choices((text,) * 4, tuple("ABCD"), int(row["answer"]))


def _source(name, keys, page, hub):
    return data.Source(name, keys.split(), page, hub)


_ARC = ("id question choices answerKey", "https://allenai.org/data/arc")
_MMLU = ("question choices answer subject", "https://github.com/hendrycks/test")
KINDS = {
    "boolq": Kind(
        _source(
            *("boolq_validation", "question passage"),
            "https://github.com/google-research-datasets/boolean-questions",
            ("google/boolq", "default", "validation"),
        ),
        boolq,
        3270,
    ),
    "piqa": Kind(
        _source(
            *(
                "piqa_validation",
                "goal sol1 sol2 label",
                "https://yonatanbisk.com/piqa",
            ),
            ("baber/piqa", "default", "validation"),
        ),
        piqa,
        1838,
        by_length=True,
    ),
    "hellaswag": Kind(
        _source(
            *("hellaswag_validation", "activity_label ctx_a ctx_b endings label"),
            "https://rowanzellers.com/hellaswag",
            ("Rowan/hellaswag", "default", "validation"),
        ),
        hellaswag,
        10_042,
        by_length=True,
    ),
    "arc-easy": Kind(
        _source("arc_easy_test", *_ARC, ("allenai/ai2_arc", "ARC-Easy", "test")),
        arc,
        2376,
        by_length=True,
    ),
    "arc-challenge": Kind(
        _source(
            "arc_challenge_test", *_ARC, ("allenai/ai2_arc", "ARC-Challenge", "test")
        ),
        arc,
        1172,
        by_length=True,
    ),
    "winogrande": Kind(
        _source(
            *("winogrande_validation", "sentence option1 option2 answer"),
            "https://winogrande.allenai.org",
            ("allenai/winogrande", "winogrande_xl", "validation"),
        ),
        winogrande,
        1267,
    ),
    "mmlu": Kind(
        _source("mmlu_test", *_MMLU, ("cais/mmlu", "all", "test")),
        mmlu,
        14_042,
        shots=5,
        examples=_source("mmlu_dev", *_MMLU, ("cais/mmlu", "all", "dev")),
        subject="subject",
    ),
}
_WHY = dict.fromkeys(("openai", "bigcode"), "that harness measures code only")
_NOTE = (
    "Prompts are those of lm-evaluation-harness; CodeGemma's report gives its figures for "
    "these benchmarks as a picture only."
)


def make(name: str, convention: str, rows: data.Data) -> Task:
    """The task of one of `KINDS`."""
    kind = KINDS[name]
    known = {"paper": kind.shots, "lm-eval": 0}
    shots = choose_convention(name, convention, known, _WHY)
    found = rows.rows(kind.source)
    examples = rows.rows(kind.examples) if shots else []

    def prompt(problem):
        asked = kind.choices(problem.row)
        above = _above(kind, shots, examples, problem.row)
        contexts = tuple(above + context for context in asked.contexts)
        return dataclasses.replace(asked, contexts=contexts)

    return Task(
        name=name,
        convention=convention,
        problems=[Problem(f"{name}/{n}", row) for n, row in enumerate(found)],
        prompt=prompt,
        max_new_tokens=0,
        by_length=kind.by_length,
        probe=lambda problem: decontaminate.Task(
            problem.id, kind.choices(problem.row).contexts[0]
        ),
        size=kind.size,
        notes=(_NOTE, f"{shots} worked examples." if shots else "No worked examples."),
    )


def _above(kind, shots, examples, row):
    """What stands above a question: its subject and worked examples."""
    if kind.subject is None:
        return ""
    mine = [e for e in examples if e[kind.subject] == row[kind.subject]][:shots]
    solved = [kind.choices(example) for example in mine]
    subject = str(row[kind.subject]).replace("_", " ")
    head = (
        "The following are multiple choice questions (with answers) about "
        f"{subject}.\n\n"
    )
    return head + few_shot(
        [s.contexts[s.gold] + s.continuations[s.gold] for s in solved], ""
    )


# TriviaQA

_TRIVIA = ("question answer", "https://nlp.cs.washington.edu/triviaqa")
TRIVIAQA = _source(
    "triviaqa_validation",
    *_TRIVIA,
    ("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
)
TRIVIAQA_TRAIN = _source(
    "triviaqa_train", *_TRIVIA, ("mandarjoshi/trivia_qa", "rc.nocontext", "train")
)


def make_triviaqa(name: str, convention: str, rows: data.Data) -> Task:
    """The task `triviaqa`; Gemma's report gives five worked examples."""
    shots = choose_convention(name, convention, {"paper": 5, "lm-eval": 0}, _WHY)
    found = rows.rows(TRIVIAQA)
    examples = rows.rows(TRIVIAQA_TRAIN)[:shots] if shots else []

    def question(row):
        return f"Question: {row['question']}?\nAnswer:"

    above = [f"{question(e)} {e['answer']['value']}" for e in examples]
    return Task(
        name=name,
        convention=convention,
        problems=[Problem(f"triviaqa/{n}", row) for n, row in enumerate(found)],
        prompt=lambda problem: few_shot(above, question(problem.row)),
        max_new_tokens=64,
        stop_strings=("\n", ".", ","),
        right=lambda problem, text: (
            _plain(text)
            in {_plain(alias) for alias in problem.row["answer"]["aliases"]}
        ),
        canonical=lambda problem: problem.row["answer"]["aliases"][0],
        probe=lambda problem: decontaminate.Task(problem.id, problem.row["question"]),
        size=17_944,
        notes=("An answer ends at the first line end, full stop or comma.",),
    )


def _plain(text):
    """Without case and punctuation, as lm-evaluation-harness compares."""
    return text.strip().lower().translate(str.maketrans("", "", string.punctuation))
