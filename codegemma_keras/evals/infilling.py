"""Single-line infilling on real files: exact match, whether the file parses, stopping.

A task hides one whole line of a file, as HumanEval Infilling does; prefix and suffix are
the rest of the file. Nothing is executed: a completed file is only parsed.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from codegemma_keras import fim
from codegemma_keras.decoding import Sampling

TO_THE_LINE_END = (fim.LEFT_TO_RIGHT, "prefix")  # such a model does not stop by itself
WORDS = re.compile(r"\w+|[^\w\s]")
MODES = ("psm", "spm", *TO_THE_LINE_END)


def single_line_tasks(
    documents: Iterable[tuple[str, str]],
    count: int,
    seed: int = 0,
    *,
    rest: bool = False,
) -> list[dict]:
    """Tasks that each hide one line of code, or the rest of one.

    Lines that are blank, comments, shorter than 4 characters or inside a file that does
    not parse are left out. Every file gives at most one task in a round, so no large
    file dominates.

    Args:
        documents: `(path, text)` pairs of Python.
        count: how many tasks; fewer if the documents have fewer such lines.
        seed: decides which lines.
        rest: whether the cursor stands in the line, behind a random word or sign of it,
            as when somebody types. A model that only continues text needs this: asked
            for a whole line, it may as well leave one blank.

    Returns:
        Dictionaries with `task_id, path, prefix, middle, suffix`.
    """
    rng = np.random.default_rng(seed)
    queues = []
    for path, text in documents:
        lines = text.splitlines(keepends=True)
        usable = [i for i, line in enumerate(lines) if _is_code(line)]
        if usable and _parses(text):
            queues.append((path, lines, list(rng.permutation(usable))))
    order = rng.permutation(len(queues))
    tasks = []
    while len(tasks) < count and any(queue for _, _, queue in queues):
        for i in order:
            path, lines, queue = queues[i]
            if not queue or len(tasks) == count:
                continue
            line = int(queue.pop())
            cursor = _cursor_in(lines[line], rng) if rest else 0
            tasks.append(
                {
                    "task_id": f"{path}:{line + 1}",
                    "path": path,
                    "prefix": "".join(lines[:line]) + lines[line][:cursor],
                    "middle": lines[line][cursor:],
                    "suffix": "".join(lines[line + 1 :]),
                }
            )
    return tasks


def run(
    lm,
    tasks: Sequence[dict],
    mode: str | None = "psm",
    *,
    max_new_tokens: int = 128,
    prompt_tokens: int | None = None,
    batch_size: int = 16,
) -> list[dict]:
    """Complete each task greedily.

    Args:
        lm: a `CodeGemmaCausalLM`.
        tasks: as `single_line_tasks` makes them.
        mode: `"psm"` or `"spm"`. Two further ones are for models that know no
            fill-in-the-middle, and end with the line: `"left_to_right"` shows the
            suffix before the prefix, and `"prefix"` does not show it at all. None is
            the preset's own mode (`preprocessor.infill_mode`).
        max_new_tokens: the most tokens of an answer.
        prompt_tokens: the most tokens of a prompt, all that fit by default. What is
            farthest from the cursor is cut.
        batch_size: prompts that are answered together.

    Returns:
        The tasks, each with `completion, exact, parses, stopped, new_tokens, mode`.

    Raises:
        ValueError: an unknown mode, or more prompt tokens than the context holds.
    """
    mode = mode or lm.preprocessor.infill_mode
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown; choose one of {', '.join(MODES)}.")
    tokenizer = lm.tokenizer
    room = lm.preprocessor.sequence_length - max_new_tokens - 1
    limit = room if prompt_tokens is None else prompt_tokens
    if limit > room:
        raise ValueError(
            f"prompt_tokens={limit}, but a context of "
            f"{lm.preprocessor.sequence_length} tokens has room for {room} beside "
            f"max_new_tokens={max_new_tokens}. Make one of them smaller."
        )

    def prompt(task):
        suffix = "" if mode == "prefix" else task["suffix"]
        prefix, suffix, _ = fim.shrink(
            task["prefix"], suffix, (), limit, tokenizer.encode, path=task["path"]
        )
        if mode == "prefix":
            parts = fim.render_plain(prefix, task["path"])
        else:
            parts = fim.render(prefix, suffix, path=task["path"], mode=mode)
        return [tokenizer.start_token_id, *tokenizer.encode(parts)]

    # Longest first: a batch holds prompts of like length.
    prompts = [prompt(task) for task in tasks]
    order = sorted(range(len(tasks)), key=lambda i: -len(prompts[i]))
    records: list[dict] = [{}] * len(tasks)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        results = lm.engine.generate(
            [prompts[i] for i in chosen],
            max_new_tokens,
            tokenizer.stop_token_ids,
            Sampling(),
        )
        for i, result in zip(chosen, results, strict=True):
            records[i] = _record(tasks[i], mode, tokenizer, result)
    return records


def summary(records: Sequence[dict]) -> dict:
    """Rates over records: `tasks, exact_match, parse_rate, stop_rate, new_tokens`."""

    def mean(key):
        return float(np.mean([r[key] for r in records])) if records else 0.0

    return {
        "tasks": len(records),
        "exact_match": mean("exact"),
        "parse_rate": mean("parses"),
        "stop_rate": mean("stopped"),
        "new_tokens": mean("new_tokens"),
    }


def _record(task, mode, tokenizer, result):
    completion = tokenizer.decode(result.token_ids)
    stopped = result.stop_reason == "stop_token"
    if mode in TO_THE_LINE_END:
        line, line_end, _ = completion.partition("\n")
        completion = line + line_end
        stopped = stopped or bool(line_end)
    return {
        **task,
        "mode": mode,
        "completion": completion,
        "exact": completion.rstrip() == task["middle"].rstrip(),
        "parses": _parses(task["prefix"] + completion + task["suffix"]),
        "stopped": stopped,
        "new_tokens": len(result.token_ids),
    }


def _cursor_in(line, rng):
    """A place behind one of the words and signs of a line, but the last."""
    ends = [match.end() for match in WORDS.finditer(line)]
    return int(rng.choice(ends[:-1])) if len(ends) > 1 else 0


def _is_code(line: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= 4 and not stripped.startswith("#")


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
