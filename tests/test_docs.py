"""Every Python example in the documentation runs.

Fenced `python` blocks of the Markdown files and of docstrings run each by itself, in an
empty folder, as a reader would paste them. `>>>` prompts in docstrings run as `doctest`
runs them, with the names of their module, those of the package, and `lm`, the embedded
model, as docs/reference/ tells its readers.
"""

import ast
import decimal
import doctest
import importlib
import importlib.util
import inspect
import json
import pathlib
import pkgutil
import re
import textwrap

import pytest

import codegemma_keras

ROOT = pathlib.Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("site_pages", ROOT / "tools/site.py")
site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site)
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
SOURCES = sorted(ROOT.glob("codegemma_keras/**/*.py"))
# Programs of the repository that nothing here runs as a whole.
PROGRAMS = [
    p
    for room in ("benchmarks", "examples", "tools", "tutorials")
    for p in ROOT.glob(f"{room}/**/*.py")
]
# Names in public modules that serve the package itself.
INTERNAL = {"Engine", "Entry", "Generated", "Generation", "Preset", "Row"}
# Public, and imported by name: `import codegemma_keras` does not bring them.
ROOMS = ("bars", "evals", "export", "sandbox", "rl.losses", "rl.rewards")
FENCE = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^ *```", re.M | re.S)


def fenced(text):
    """`(line of the first line of code, code)` of each fenced Python block."""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        yield line, textwrap.dedent(match["code"])


def docstrings(source):
    """`(line, text)` of each docstring of a module."""
    tree = ast.parse(source)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False):
            yield node.body[0].lineno, node.body[0].value.value


def markdown_examples():
    for path in MARKDOWN:
        for line, code in fenced(path.read_text(encoding="utf-8")):
            yield pytest.param(path, line, code, id=f"{path.name}:{line}")


def docstring_examples():
    for path in SOURCES:
        for start, text in docstrings(path.read_text(encoding="utf-8")):
            for line, code in fenced(text):
                line += start - 1
                name = path.relative_to(ROOT).as_posix()
                yield pytest.param(path, line, code, id=f"{name}:{line}")


def prompt_examples():
    parser = doctest.DocTestParser()
    for path in SOURCES:
        for start, text in docstrings(path.read_text(encoding="utf-8")):
            name = path.relative_to(ROOT).as_posix()
            test = parser.get_doctest(text, {}, name, str(path), start - 1)
            if test.examples:
                yield pytest.param(test, id=f"{name}:{start}")


@pytest.mark.parametrize(
    ("path", "line", "code"), [*markdown_examples(), *docstring_examples()]
)
def test_fenced_example_runs(path, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Tests use no network. `make test-smollm2` runs such examples with the real model.
    code = code.replace("smollm2_135m_code", "code_gemma_tiny_py")
    # Line numbers as in the file, so that a failure points into it.
    program = compile("\n" * (line - 1) + code, str(path), "exec")
    exec(program, {"__name__": "__main__"})


@pytest.fixture(scope="module")
def embedded():
    """A function that gives the embedded model, anew when an example has changed it."""
    made = []

    def model():
        if not made or made[0].backbone.version != made[1]:
            lm = codegemma_keras.CodeGemmaCausalLM.from_preset("code_gemma_tiny_py")
            made[:] = lm, lm.backbone.version
        return made[0]

    return model


@pytest.mark.parametrize("test", [*prompt_examples()])
def test_prompt_example_prints_what_it_says(test, tmp_path, monkeypatch, embedded):
    monkeypatch.chdir(tmp_path)
    module = test.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    names = {name: getattr(codegemma_keras, name) for name in codegemma_keras.__all__}
    test.globs.update(names | vars(importlib.import_module(module)))
    if any(re.search(r"\blm\b", example.source) for example in test.examples):
        test.globs["lm"] = embedded()
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def public_names():
    """The names that docs/reference/ documents, members included."""
    return [name for _, name in site.public_names()]


def docstring_of(name):
    return pkgutil.resolve_name(name).__doc__ or ""


def test_every_public_name_has_an_example():
    """Those examples run above. `pytest -s` shows the share."""
    names = public_names()
    without = [n for n in names if not re.search(">>> |```python", docstring_of(n))]
    share = 1 - len(without) / len(names)
    print(f"{len(names)} public names, with an executed example: {share:.0%}")
    assert len(names) > 60
    assert not without


def names_defined_in(module):
    """The public functions and classes of a module."""
    for key in getattr(module, "__all__", vars(module)):
        value = getattr(module, key)
        own = getattr(value, "__module__", "").startswith(module.__name__)
        if own and callable(value) and not key.startswith("_"):
            yield value.__name__  # `dapo` is another name of `dr_grpo`


def test_the_reference_holds_the_whole_package():
    shown = {name.rpartition(".")[2] for name in public_names()}
    rooms = [importlib.import_module(f"codegemma_keras.{room}") for room in ROOMS]
    for name in set(codegemma_keras.__all__) - {"__version__"}:
        found = getattr(codegemma_keras, name)
        if inspect.ismodule(found):
            rooms.append(found)
        else:
            assert name in shown
    for room in rooms:
        assert not {*names_defined_in(room)} - shown - INTERNAL, room


def test_examples_are_found():
    found = {path.name for path, _, _ in (p.values for p in markdown_examples())}
    assert "README.md" in found
    assert any(docstring_examples())


def test_fences_are_found_where_they_stand():
    text = (
        "a\n\n```python\nx = 1\n```\n\n    ```python\n    if x:\n        y = 2\n    ```"
    )
    assert list(fenced(text)) == [(4, "x = 1\n"), (8, "if x:\n    y = 2\n")]
    assert not list(fenced("```text\nx = \n```\n```pythonic\n```"))


def imported_names(path):
    """`(module, name)` of each `from codegemma_keras... import ...` of a program."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            if (node.module or "").split(".")[0] == "codegemma_keras":
                yield from ((node.module, alias.name) for alias in node.names)


def exists(module, name):
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def test_programs_import_names_that_exist():
    wanted = {names for path in PROGRAMS for names in imported_names(path)}
    assert len(wanted) > 50
    assert not {names for names in wanted if not exists(*names)}


def test_the_tree_names_what_is_there_and_nothing_else():
    """One line of the tree may name several files: `fim.py chat.py    ...`."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    start = text.index("\n    codegemma_keras/\n") + 1
    lines = text[start : text.index("\n\n", start)].splitlines()
    package, beside = set(), set()
    for line in lines[1:]:
        names = set(re.match(r" +((?:[\w.]+(?:/|\.py) ?)*)", line)[1].split())
        (package if line.startswith("      ") else beside).update(names)
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "codegemma_keras").iterdir()
        if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
    }
    assert package == there
    assert all(any(ROOT.glob(name.replace("NN_name", "*"))) for name in beside)
    assert beside


def test_the_commands_of_readme_write_into_different_folders():
    """A folder holds one run, and a second recipe is refused there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = re.findall(r"`codegemma [^`]*--out (\S+?)[ `]", text)
    assert len(folders) > 4
    assert len(set(folders)) == len(folders)


def test_the_guides_have_the_measured_step_beside_kerashub():
    found = json.loads((ROOT / "benchmarks/results/train_memory.json").read_text())
    ratios = [
        f"{found['ratios'][backend][key]:.2f}"
        for backend in ("jax", "tensorflow")
        for key in ("peak_above_weights_gib", "seconds_per_step")
    ]
    figures = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    assert "JAX {} and {}; TensorFlow {} and {} |".format(*ratios) in figures
    training = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for row in found["rows"].values():
        peak, seconds = row["peak_above_weights_gib"], row["seconds_per_step"]
        assert re.search(rf"\| {peak:.2f}[^|]*\| {seconds:.1f} ", training)


def score(found):
    """A recorded score as docs/evaluation.md writes it."""
    [score] = found["scores"].values()

    def rounded(value):
        tenth = decimal.Decimal("0.1")
        return decimal.Decimal(str(value)).quantize(tenth, decimal.ROUND_HALF_UP)

    low, high = map(rounded, score["interval"])
    right, percent = int(score["right"]), rounded(score["percent"])
    return f"{right:,}/{score['of']:,} = {percent} % [{low}, {high}]"


def test_the_page_of_evaluation_has_every_recorded_score():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    header = next(
        line for line in lines if line.startswith("| | `smollm2_135m_code` |")
    )
    presets = re.findall(r"`(\w+)`", header)
    names = {
        "babelcode-humaneval": "BabelCode's HumanEval",
        "gsm8k": "GSM8K",
        "humaneval": "HumanEval",
        "humaneval-infilling-light": "light",
        "humaneval-infilling-multi": "multi-line",
        "humaneval-infilling-random": "random spans",
        "humaneval-infilling-single": "single-line",
    }
    table = lines[lines.index(header) :][: 2 + len(names)]
    results = ROOT / "benchmarks" / "results"
    recorded = json.loads((results / "eval_presets.json").read_text())["rows"]
    assert set(presets) == set(recorded)
    for preset, rows in recorded.items():
        for task, found in rows.items():
            name = names[re.sub(r"(babelcode-humaneval)-.*", r"\1", task.split(",")[0])]
            [row] = [r for r in table if r.startswith((f"| {name} ", f"| {name},"))]
            assert row.split("|")[2 + presets.index(preset)].strip() == score(found)
    peers = json.loads((results / "eval_peers.json").read_text())["rows"]
    told = page[page.index("### Beside Transformers") :]
    for task, rows in peers.items():
        if task.endswith("editor, smollm2_135m_code"):
            continue  # an earlier rule: told as equal answers and seconds
        for found in rows.values():
            assert score(found) in told
            if "answers_of_ours" in found:
                assert f"{found['answers_of_ours']} equal" in told


def test_the_readme_is_short():
    """A newcomer reads it whole; what is longer belongs into a guide."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 150


def test_formulas_of_the_site_are_no_latex():
    """The build fails where a page still has some; `pymdownx.arithmatex` writes this."""
    found = site.site_mathematics.formulas_left
    assert found('<p><span class="arithmatex">\\(p_i\\)</span></p>')
    assert found('<div class="arithmatex">\\[J = \\sum_i p_i\\]</div>')
    assert found("<p>$\\nabla p_i$ is left alone</p>")
    assert not found("<p><math><mi>p</mi></math> costs $5 or $6.</p>")
    assert not found("<code>r'\\(x\\)'</code> <pre>echo $HOME \\n $A</pre>")
    hooks = re.search(r"^hooks: \[(.*?)\]", (ROOT / "mkdocs.yml").read_text(), re.M)[1]
    assert hooks == "tools/site_mathematics.py"
