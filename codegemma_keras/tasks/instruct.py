"""Questions and answers about code, made from documented functions (OSS-Instruct's idea).

    source files -> functions with a docstring and doctests -> question, answer -> filter

The question is what the author wrote about the function, the answer the function itself,
and the doctests say whether an answer is right, be it the author's or a model's:
`program` puts an answer and the examples together, for `sandbox` to run. Nothing is
executed here, and a pair is only as good as its examples, so `keep`
wants the runner's verdict on every one.

Left out: questions written by a model (OSS-Instruct asks a large one), methods of
classes, and functions that need other names of their module: an answer must stand alone.
"""

import ast
import builtins
import dataclasses
import doctest
import inspect
from collections.abc import Callable, Iterable, Iterator

from codegemma_keras.data.document import Report
from codegemma_keras.tasks.code_blocks import code_of as code_of  # beside `program`

MAX_LINES = 30  # of a function: longer ones are no short answer


@dataclasses.dataclass(frozen=True)
class Task:
    """A question that examples can decide.

    Attributes:
        name: of the function.
        question: what the user asks.
        answer: the source of a function, without docstring, that should be right.
        examples: doctest text, `>>> call` and what it prints.
        origin: where it is from, `path:name`; or a family's name.
    """

    name: str
    question: str
    answer: str
    examples: str
    origin: str

    def messages(self) -> list[dict[str, str]]:
        """As a conversation of one round."""
        return [
            {"role": "user", "content": self.question},
            {"role": "model", "content": fenced(self.answer)},
        ]


def functions(files: Iterable[tuple[str, str]], report: Report) -> Iterator[Task]:
    """Tasks from the documented functions of Python files.

    Args:
        files: `(path, text)` pairs.
        report: counts what is left out, and why, as step `"instruct"`.

    Yields:
        A `Task` for each module-level function that has doctests and stands alone.
    """
    for path, text in files:
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError):
            report.drop("instruct", "does not parse", path)
            continue
        for node in body:
            if isinstance(node, ast.FunctionDef):
                task, reason = _task(node, path)
                if task is None:
                    report.drop("instruct", reason, f"{path}:{node.name}")
                else:
                    report.count("instruct", "made")
                    yield task


def _task(node, path):
    """`(Task, "")`, or `(None, why not)`."""
    text = ast.get_docstring(node)
    if not text:
        return None, "no docstring"
    examples = _examples(text)
    if not examples:
        return None, "no doctest"
    description = _description(text)
    if len(description) < 12:
        return None, "no description"
    if node.decorator_list:
        return None, "decorated"
    answer = _without_docstring(node)
    if answer.count("\n") >= MAX_LINES:
        return None, "too long"
    if free_names(answer):
        return None, "needs other names of its module"
    question = ask(node.name, [a.arg for a in node.args.args], description, examples)
    return Task(node.name, question, answer, examples, f"{path}:{node.name}"), ""


def ask(name, arguments, description, examples) -> str:
    """The question for a function."""
    shown = "\n".join(examples.splitlines()[:6])
    return (
        f"Write a Python function `{name}({', '.join(arguments)})`.\n{description}\n\n"
        f"{shown}"
    )


def _examples(text):
    """The doctests of a docstring, in one style, without prose between them."""
    try:
        found = doctest.DocTestParser().get_examples(inspect.cleandoc(text))
    except ValueError:  # a prompt without a space, mixed indentation
        return ""
    lines = []
    for example in found:
        first, *more = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}", *(f"... {line}" for line in more)]
        lines += example.want.rstrip("\n").split("\n") if example.want else []
    return "\n".join(lines)


def _description(text):
    """The first paragraph of a docstring."""
    paragraph = inspect.cleandoc(text).partition(">>>")[0].split("\n\n")[0]
    return " ".join(paragraph.split())


def _without_docstring(node):
    copy = ast.parse(ast.unparse(node)).body[0]
    copy.body = copy.body[1:] or [ast.Pass()]
    return ast.unparse(copy)


def free_names(source: str) -> set[str]:
    """Names that a program reads and neither it nor Python defines."""
    tree = ast.parse(source)
    read, made = set(), set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return read - made


# Answers


def fenced(source: str) -> str:
    """An answer as chat models write it."""
    return f"```python\n{source}\n```"


def program(code: str, task: Task) -> str:
    """A program that runs to its end only if `code` does what the examples show.

    To be run in a sandbox, `sandbox.run`: `code` may be anything.
    """
    return (
        f"{code}\n\n"
        "import doctest as _doctest\n"
        f"_test = _doctest.DocTestParser().get_doctest({task.examples + chr(10)!r}, "
        f"dict(globals()), {task.name!r}, None, 0)\n"
        "_runner = _doctest.DocTestRunner(verbose=False)\n"
        "_runner.run(_test, out=lambda text: None)\n"
        "assert _runner.tries and not _runner.failures, 'an example fails'\n"
    )


def keep(
    tasks: Iterable[Task],
    run_all: Callable[[list[str]], list],
    report: Report,
) -> list[Task]:
    """The tasks whose own answers pass their examples.

    Args:
        tasks: of any origin.
        run_all: programs to results with `passed` and `reason`;
            `sandbox.run_all`.
        report: counts what is left out, and why, as step `"execution"`.
    """
    tasks = list(tasks)
    results = run_all([program(task.answer, task) for task in tasks])
    kept = []
    for task, result in zip(tasks, results, strict=True):
        if result.passed:
            report.count("execution", "passed")
            kept.append(task)
        else:
            report.drop("execution", result.reason.split(":")[0], task.origin)
    return kept
