"""HumanEval planted in real files seven ways; and what is found in files without it.

    python benchmarks/data_decontaminate.py HumanEval.jsonl.gz [--clean FOLDER ...]

Planted: each solution (its function, without the docstring, so that code alone has to
do) in the middle of a file of the standard library: verbatim; reformatted by
`ast.unparse` and re-wrapped; with comments on every line; with all parameters and
variables renamed; without type hints; without them and renamed; with a line that logs
before every statement. False positives: every match in the standard library and the packages
given, listed one by one.
"""

import argparse
import ast
import builtins
import gzip
import json
import pathlib
import random
import re
import textwrap
import time

from _data import package_folder, record, stdlib_folder

from codegemma_keras.data.clean import decontaminate


class Rename(ast.NodeTransformer):
    """Gives every parameter and variable of a function a new name."""

    def __init__(self, tree, rng):
        names = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        names |= {
            n.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        words = (
            "alpha beta gamma delta item value left right total part found rest".split()
        )
        self.names = {
            name: f"{rng.choice(words)}_{i}"
            for i, name in enumerate(sorted(names - set(dir(builtins))))
        }

    def visit_Name(self, node):
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node):
        self.generic_visit(node)
        node.arg = self.names.get(node.arg, node.arg)
        return node


def without_docstring(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def verbatim(code):
    return re.sub(r'("""|\'\'\').*?\1\n?', "", code, flags=re.S)


def reformatted(code):
    """Other quotes, blank lines, indentation and wrapping."""
    text = ast.unparse(without_docstring(ast.parse(code)))
    text = text.replace("    ", "  ")
    lines = []
    for line in text.split("\n"):
        lines.append(re.sub(r", ", ",\n      ", line) if line.count("(") == 1 else line)
    return "\n\n".join(lines).replace("'", '"') if '"' not in text else "\n".join(lines)


def commented(code):
    lines = ast.unparse(without_docstring(ast.parse(code))).split("\n")
    return "\n".join(
        f"{line}  # step {i}: see the notes" for i, line in enumerate(lines)
    )


def renamed(code, rng):
    tree = without_docstring(ast.parse(code))
    return ast.unparse(Rename(tree, rng).visit(tree))


def unhinted(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                setattr(node, field, [_unannotated(n) for n in block])
    return ast.fix_missing_locations(tree)


def _unannotated(node):
    if isinstance(node, ast.AnnAssign) and node.value:
        return ast.Assign([node.target], node.value)
    return node


LOGS = (
    'logger.info("step %d of %s", {0}, __name__)',
    'print(f"step {0}", locals())',
    "logging.getLogger(__name__).debug('at %s', ({0}, [1, 2]))",
    'self.log.warning("step {0}")',
    'sys.stderr.write("step {0}\\n")',
    'warnings.warn("step {0}", stacklevel=2)',
)


class Log(ast.NodeTransformer):
    """Puts a statement that logs before every statement of a function."""

    def __init__(self, rng):
        self.rng, self.number = rng, 0

    def visit(self, node):
        self.generic_visit(node)
        inside = not isinstance(node, (ast.Module, ast.ClassDef))
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            if inside and isinstance(block, list) and block:
                setattr(node, field, [part for n in block for part in (self.line(), n)])
        return node

    def line(self):
        self.number += 1
        return ast.parse(self.rng.choice(LOGS).format(self.number)).body[0]


def without_hints(code):
    return ast.unparse(unhinted(without_docstring(ast.parse(code))))


def logging(code, rng):
    return ast.unparse(Log(rng).visit(without_docstring(ast.parse(code))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("humaneval", type=pathlib.Path)
    parser.add_argument("--clean", nargs="*", type=pathlib.Path, default=[])
    args = parser.parse_args()
    with gzip.open(args.humaneval, "rt") as file:
        rows = [json.loads(line) for line in file]
    tasks = decontaminate.read_tasks(args.humaneval)
    rng = random.Random(0)
    folders = [stdlib_folder(), package_folder("networkx"), package_folder("sympy")]
    files = {}
    for folder in [*folders, *args.clean]:
        for path in sorted(folder.rglob("*.py")):
            name = f"{folder.name}/{path.relative_to(folder)}"
            if "site-packages" not in path.relative_to(folder).parts:
                files[name] = path.read_text("utf-8", "replace")
    index = decontaminate.Index(tasks)
    start = time.perf_counter()
    false = {n: found for n, text in files.items() if (found := index.matches(text))}
    seconds = time.perf_counter() - start
    hosts = [t for n, t in files.items() if n not in false and 2_000 < len(t) < 60_000]
    found, missed = {}, {}
    for kind, change in (
        ("verbatim", verbatim),
        ("reformatted", reformatted),
        ("commented", commented),
        ("renamed", lambda code: renamed(code, rng)),
        ("hints removed", without_hints),
        ("hints removed, renamed", lambda c: renamed(without_hints(c), rng)),
        ("logging", lambda code: logging(code, rng)),
    ):
        missed[kind] = []
        for row in rows:
            code = change(row["prompt"] + row["canonical_solution"])
            host = rng.choice(hosts).split("\n")
            cut = rng.randrange(len(host))
            text = "\n".join([*host[:cut], "", textwrap.dedent(code), "", *host[cut:]])
            if row["task_id"] not in {m.task for m in index.matches(text)}:
                missed[kind].append(row["task_id"])
        found[kind] = len(rows) - len(missed[kind])
    size = sum(len(t.encode("utf-8", "replace")) for t in files.values()) / 1e6
    record(
        "data_decontaminate",
        {
            "tasks": len(rows),
            "found": found,
            "missed": missed,
            "clean_files": len(files),
            "false_positives": {
                n: [f"{m.task} {m.kind} {m.hits} {m.share:.0%}" for m in f]
                for n, f in false.items()
            },
            "mb_per_s_one_core": round(size / seconds, 2),
        },
    )


if __name__ == "__main__":
    main()
