"""The notebook tool: rebuilds have the same bytes, drift and unfit outputs are found."""

import importlib.util
import json
import pathlib
import re
import sys
import tempfile

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("notebooks", ROOT / "tools/notebooks.py")
notebooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(notebooks)
execution = notebooks.notebook_execution
making, written = sys.modules["notebook_making"], sys.modules["notebook_sources"]

SOURCE = """\
# %% [markdown]
# # A title
#
# What it is about.

# %% tags=["parameters"]
steps = 30
least = 3

# %%
print("steps:", steps)

# %% [markdown]
# Now you. The next cell fails on purpose.

# %% tags=["exercise"]
twice = None
assert twice == 2 * steps, "Hint: multiply."

# %%
print("steps:", steps)

# %%
assert steps >= least
"""
SOLUTION = """\
# %% tags=["exercise"]
twice = 2 * steps
assert twice == 2 * steps, "Hint: multiply."
"""


@pytest.fixture
def folder(tmp_path):
    """A folder of one tutorial, its solution and its smoke parameters."""
    tutorials = tmp_path / "tutorials"
    for name in ("smoke", "solutions"):
        (tutorials / name).mkdir(parents=True)
    (tutorials / "05_small.py").write_text(SOURCE)
    (tutorials / "solutions" / "05_small.py").write_text(SOLUTION)
    (tutorials / "smoke" / "05_small.py").write_text("steps = 2\nleast = 0\n")
    return tutorials


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def test_a_built_notebook(folder):
    notebook = notebooks.make(folder / "05_small.py")
    nbformat.validate(notebook)
    title, install, parameters = notebook.cells[:3]
    assert title.source.startswith("# A title\n\n[![Open in Colab]")
    assert "kaggle.com" in title.source
    assert title.source.endswith("What it is about.")
    assert install.metadata.tags == ["install"]
    assert f"git+{making.REPOSITORY}" in install.source
    assert '"ipykernel ipython jax keras numpy tensorflow torch"' in install.source
    assert parameters.metadata.tags == ["parameters"]
    sources = [cell.source for cell in notebook.cells]
    assert len({cell.id for cell in notebook.cells}) == len(sources)  # one stands twice
    assert sources.count('print("steps:", steps)') == 2


def test_rebuilds_have_the_same_bytes(folder, tmp_path):
    out, files = tmp_path / "notebooks", notebooks.sources(folder)
    notebooks.build(files, out)
    first = (out / "05_small.ipynb").read_bytes()
    notebooks.build(files, out)
    assert (out / "05_small.ipynb").read_bytes() == first
    other = tmp_path / "elsewhere"
    notebooks.build(files, other)
    assert (other / "05_small.ipynb").read_bytes() == first


def executed(folder, out):
    """Build, and put outputs in as `run` would, without a kernel."""
    notebooks.build(notebooks.sources(folder), out)
    file = out / "05_small.ipynb"
    notebook = nbformat.read(file, as_version=4)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and "exercise" not in cell.metadata.get("tags", ()):
            cell.execution_count = number
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="2\n")]
    file.write_text(notebooks.to_text(notebook))
    return file


def test_check_finds_drift(folder, tmp_path):
    out, files = tmp_path / "notebooks", notebooks.sources(folder)
    assert "missing" in notebooks.check(files, out)[0]
    notebooks.build(files, out)
    assert notebooks.check(files, out) == []
    assert notebooks.unexecuted(files, out) == ["05_small"]
    file = executed(folder, out)
    assert notebooks.check(files, out) == notebooks.unexecuted(files, out) == []
    # Prose changes: outputs stay. Code changes: they go.
    edit(folder / "05_small.py", "Now you.", "Your turn.")
    assert "is not what" in notebooks.check(files, out)[0]
    notebooks.build(files, out)
    assert notebooks.check(files, out) == []
    edit(
        folder / "05_small.py",
        'print("steps:", steps)\n\n# %% [',
        "print(steps)\n\n# %% [",
    )
    notebooks.build(files, out)
    assert notebooks.unexecuted(files, out) == ["05_small"]
    (out / "06_gone.ipynb").write_text(file.read_text())
    assert "06_gone.ipynb has no source" in notebooks.check(files, out)[-1]


def test_outputs_stay_if_only_comments_of_the_install_cell_change(
    folder, tmp_path, monkeypatch
):
    out, files = tmp_path / "notebooks", notebooks.sources(folder)
    executed(folder, out)
    install = making.INSTALL
    monkeypatch.setattr(making, "INSTALL", "# Another comment.\n" + install)
    notebooks.build(files, out)
    assert notebooks.unexecuted(files, out) == []
    monkeypatch.setattr(making, "INSTALL", install.replace("-q", "-qq"))
    notebooks.build(files, out)
    assert notebooks.unexecuted(files, out) == ["05_small"]


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ({"name": "stderr", "text": "UserWarning: old"}, "warns: UserWarning: old"),
        ({"name": "stdout", "text": f"in {ROOT}/x.py"}, "shows a path"),
        ({"name": "stdout", "text": f"{sys.prefix}/lib"}, "shows a path"),
        ({"name": "stdout", "text": f"{tempfile.gettempdir()}/x"}, "shows a path"),
        ({"name": "stdout", "text": "<object at 0x7f1234567890>"}, "shows the address"),
        ({"name": "stdout", "text": "line\n" * 500}, "prints 500 lines"),
    ],
)
def test_unfit_outputs_are_found(folder, tmp_path, output, problem):
    out = tmp_path / "notebooks"
    file = executed(folder, out)
    notebook = nbformat.read(file, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", **output)]
    file.write_text(notebooks.to_text(notebook))
    (found,) = notebooks.check(notebooks.sources(folder), out)
    assert problem in found


def test_a_bar_is_kept_in_its_last_state():
    assert execution.settle("1/3 [=  ]\r2/3 [== ]\r3/3 [===]\nend") == "3/3 [===]\nend"
    assert execution.settle("\x1b[1mab\x1b[0m\b\bcd ") == "cd"
    cell = nbformat.v4.new_code_cell("x")
    start_up = "I0000 00:00:1795398572.098482   17077 cudart_stub.cc:31] No GPU\n"
    cell.outputs = [
        nbformat.v4.new_output("stream", name=name, text=text)
        for name, text in [
            ("stdout", "1/2\r"),
            ("stdout", "2/2\n"),
            ("stderr", start_up),
            ("stderr", "UserWarning\n"),
        ]
    ]
    execution.clean_outputs(cell)
    assert [output.text for output in cell.outputs] == ["2/2\n", "UserWarning\n"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# # A title", "# A title", "must be the title"),
        ('tags=["parameters"]', "", "tagged `parameters`"),
        ('tags=["exercise"]', 'tags=["excercise"]', "unknown tags"),
        ("assert steps >= least", "print(least)", "must assert"),
        (
            "fails on purpose",
            "is yours",
            "must say that such a cell `fails on purpose`",
        ),
    ],
)
def test_conventions_are_checked(folder, old, new, message):
    file = edit(folder / "05_small.py", old, new)
    with pytest.raises(notebooks.NotebookError, match=message):
        notebooks.read(file)


def test_smoke_sets_parameters_only(folder):
    file = folder / "05_small.py"
    assert written.smoke_cells(file) == "steps = 2\nleast = 0\n"
    edit(folder / "smoke" / "05_small.py", "steps = 2", "step = 2")
    with pytest.raises(notebooks.NotebookError, match=r"sets \['step'\]"):
        written.smoke_cells(file)


def test_execution(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "INSTALL", "pass")  # no Keras: it takes seconds
    file = folder / "05_small.py"
    notebook, cost = notebooks.execute(file, smoke=True)
    assert cost["peak_gb"] > 0
    shown = [o.text for c in notebook.cells for o in c.get("outputs", ())]
    assert shown == ["steps: 2\n", "steps: 2\n"]
    # In full, and exercises are left to the reader.
    notebook, _ = notebooks.execute(file)
    shown = [o.text for c in notebook.cells for o in c.get("outputs", ())]
    assert shown == ["steps: 30\n", "steps: 30\n"]
    text = notebooks.to_text(notebook)
    assert "timestamp" not in text
    assert str(tmp_path) not in text
    assert json.loads(text)["metadata"] == notebooks.METADATA


def test_the_memory_of_a_child_is_counted(folder, monkeypatch):
    monkeypatch.setattr(making, "INSTALL", "pass")
    large = b"x" * 500_000_000  # a process begins with the peak of its parent
    program = "text = 'x' * 400_000_000; [text.find('y') for _ in range(50)]"
    child = f"import subprocess, sys\nprogram = {program!r}\n"
    child += "subprocess.run([sys.executable, '-c', program], check=True)\n"
    file = edit(folder / "05_small.py", "assert steps", child + "assert steps")
    _, cost = notebooks.execute(file)
    del large
    assert 0.37 < cost["child_gb"] < 0.46
    assert cost["peak_gb"] < 0.37


def test_the_line_below_the_title(folder):
    cost = {
        "minutes": 3.8,
        "peak_gb": 1.83,
        "child_gb": 3.6,
        "backend": "jax",
        "cores": 2,
    }
    line = notebooks.notebook_costs.line
    assert line("a", {}) == ""
    assert line("a", {"a": cost}) == (
        "*This notebook takes about 4 minutes on 2 CPU cores (JAX) and needs 1.8 GB of "
        "memory, plus 3.6 GB for a process that it starts.*"
    )
    cost = {**cost, "minutes": 0.2, "child_gb": 0.1}
    assert line("a", {"a": cost}, downloads=True) == (
        "*This notebook takes about 1 minute on 2 CPU cores (JAX) and needs 1.8 GB of "
        "memory. It downloads 93 MB the first time.*"
    )
    file = folder / "05_small.py"
    costs = {"05_small": cost}
    assert "downloads" not in notebooks.make(file, costs).cells[0].source
    edit(file, "steps = 30", 'steps = 30\npreset = "smollm2_135m_code"')
    assert "It downloads 93 MB" in notebooks.make(file, costs).cells[0].source


@pytest.mark.parametrize(
    ("where", "old", "new", "message"),
    [
        ("", "twice = None", "twice = 60", "passes unsolved"),
        ("", "Hint: multiply.", "no", "fails without a hint"),
        ("solutions", "2 * steps\n", "3 * steps\n", "Hint: multiply"),
        ("", "assert steps >= least", "assert steps < least", "AssertionError"),
    ],
)
def test_failures_are_told(folder, monkeypatch, where, old, new, message):
    monkeypatch.setattr(making, "INSTALL", "pass")
    edit(folder / where / "05_small.py", old, new)
    if not where and "twice" in old:
        edit(folder / "smoke" / "05_small.py", "steps = 2", "steps = 30")
    with pytest.raises(notebooks.NotebookError, match=message):
        notebooks.execute(folder / "05_small.py", smoke=True)


def test_every_tutorial_keeps_the_conventions():
    for file in notebooks.sources():
        notebooks.make(file)
        written.smoke_cells(file)
        notebooks.solutions(file)


def test_readme_has_the_measured_minutes():
    costs = notebooks.notebook_costs
    text = (ROOT / "README.md").read_text("utf-8")
    assert costs.in_table(text) == text
    rows = {match[2] for match in costs.ROW.finditer(text)}
    assert rows == {file.stem for file in notebooks.sources()}
    changed = costs.in_table(text, {"10_tokens": {"minutes": 99.94}})
    assert "| 99.9 | [Colab]" in changed


@pytest.mark.parametrize("file", notebooks.sources(), ids=lambda file: file.stem)
def test_ends_with_papers(file):
    last = notebooks.read(file)[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Further reading\n\n* ")
    links = re.findall(r"\]\(https://(?:arxiv\.org/abs|doi\.org)/\S+\)", last.source)
    assert 1 <= len(links) <= 3


PLATFORMS = sorted((ROOT / "tools" / "platforms").glob("*.txt"))


def requirements(extra):
    """What the package asks for with an extra, without asking an index."""
    texts = list(written.PROJECT["dependencies"])
    names = [name for name in extra.split(",") if name]
    while names:
        for text in written.PROJECT["optional-dependencies"][names.pop()]:
            found = Requirement(text)
            if found.name == "codegemma-keras":
                names += found.extras
            else:
                texts.append(text)
    return [Requirement(text) for text in texts]


def test_every_extra_of_an_install_cell_is_checked():
    asked = {written.extras_of(notebooks.read(file)) for file in notebooks.sources()}
    assert "notebooks,serve" in asked
    assert asked <= set(making.platforms.extras())


@pytest.mark.parametrize("file", PLATFORMS, ids=lambda file: file.stem)
def test_ranges_hold_what_colab_and_kaggle_carry(file):
    """Else an installation moves it there; `tools/platforms.py` asks a real resolver."""
    carried = making.platforms.read(file)[1]
    carried = {canonicalize_name(name): version for name, version in carried.items()}
    for extra in making.platforms.extras():
        for wanted in requirements(extra):
            version = carried.get(canonicalize_name(wanted.name))
            if version is not None:
                assert wanted.specifier.contains(version, prereleases=True), wanted


SANDBOXED = ("03_instruction_tuning", "05_reinforcement_learning", "22_evaluation")


def sandbox_cells(stem):
    """The text and the code that choose the sandbox of a chapter."""
    cells = [c.source for c in notebooks.read(ROOT / f"tutorials/{stem}.py")]
    first = next(
        n for n, s in enumerate(cells) if s.startswith("## Where the programs")
    )
    return cells[first : first + 2]


def test_chapters_that_run_programs_choose_the_sandbox_in_the_same_words():
    found = [sandbox_cells(stem) for stem in SANDBOXED]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("place", "works", "asked", "used"),
    [
        ("here", "bubblewrap", "bubblewrap", "bubblewrap"),
        ("here", "namespaces", "limits", "namespaces"),
        ("here", "limits", "bubblewrap", None),
        ("colab", "limits", "bubblewrap", "limits"),
        ("kaggle", "namespaces", "bubblewrap", "namespaces"),
    ],
)
def test_only_a_disposable_machine_weakens_the_sandbox(
    place, works, asked, used, monkeypatch, capsys
):
    from codegemma_keras import sandbox
    from codegemma_keras.recipes import hosted

    monkeypatch.setattr(hosted, "where", lambda: place)
    for module in (sandbox, sandbox.levels):
        monkeypatch.setattr(module, "isolation", lambda: works)
    names = {"isolation": asked}
    cell = sandbox_cells(SANDBOXED[0])[1]
    if used is None:
        with pytest.raises(RuntimeError, match="'limits' only, and 'bubblewrap'"):
            exec(cell, names)
        return
    exec(cell, names)
    said = capsys.readouterr().out
    assert said.startswith(f"Programs run in {used!r}: ")
    assert (place if place != "here" else f"isolation={asked!r}") in said
    # What the chapter asks for later is what was chosen here.
    assert names["isolation"] == (asked if place == "here" else works)
