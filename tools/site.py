"""Puts the pages of the site together, checks their links, and builds it.

    python tools/site.py            pages into .make/pages, the site into site/
    python tools/site.py pages      only the pages

A page comes from one of five places: README.md, docs/*.md (guides), notebooks/*.ipynb with
their outputs, docs/reference/*.md with what mkdocstrings reads from the source, and what
`codegemma COMMAND --help` prints. A link to a file of the repository that is no page
becomes a link to GitHub. A link to nothing is an error, and so is any warning of MkDocs.

Left out: links to other sites are not followed, since a build must not need them.
"""

import argparse
import contextlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import site_mathematics

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ROOT / ".make" / "pages"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]*)(#[^)\s]*)?(\))")
FENCE = re.compile(r"(^ *```.*?^ *```|^(?: {4}|\t)[^\n]*$|`[^`\n]+`)", re.M | re.S)
ENTRY = re.compile(r"^::: (\S+)\n((?: +.*\n)*)", re.M)
WIDTH = 88  # of a help text


def places():
    """`{file of the repository: its page}` of every page that stands in a file."""
    found = {ROOT / "README.md": "index.md"}
    found |= {ROOT / "CHANGELOG.md": "changelog.md"}
    found |= {ROOT / "tutorials" / "TEACHERS.md": "notebooks/index.md"}
    for file in sorted((ROOT / "docs").glob("*.md")):
        found[file] = f"guides/{file.name}"
    for file in sorted((ROOT / "docs" / "reference").glob("*.md")):
        if file.name != "README.md":  # which is for readers of the repository
            found[file] = f"reference/{file.name}"
    for file in sorted((ROOT / "docs" / "images").iterdir()):
        found[file] = f"images/{file.name}"
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found[file] = f"notebooks/{file.stem}.md"
    return found


def moved(text, file, found, own=()):
    """A page's text, its links as the site has them.

    Args:
        text: the Markdown.
        file: where it stands in the repository.
        found: what `places` gives.
        own: names that stand beside the page.

    Raises:
        ValueError: a link leads to nothing.
    """

    def replaced(match):
        before, target, anchor, after = match.groups()
        if not target or target in own or re.match(r"[a-z]+:", target):
            return match[0]
        path = (file.parent / target).resolve()
        if path in found:
            here = pathlib.PurePosixPath(found[file]).parent
            target = os.path.relpath(found[path], here)
        elif path.exists():
            kind = "tree" if path.is_dir() else "blob"
            target = f"{REPOSITORY}/{kind}/main/{path.relative_to(ROOT).as_posix()}"
        else:
            raise ValueError(f"{file.relative_to(ROOT)}: {target} leads to nothing.")
        return f"{before}{target}{anchor or ''}{after}"

    # What stands in code is no link.
    parts = FENCE.split(text)
    return "".join(p if i % 2 else LINK.sub(replaced, p) for i, p in enumerate(parts))


def notebook(file):
    """`(Markdown, {name: bytes of a picture})` of a notebook with its outputs."""
    import nbconvert

    exporter = nbconvert.MarkdownExporter()
    text, resources = exporter.from_filename(str(file))
    pictures = {}
    for name, content in resources["outputs"].items():
        pictures[f"{file.stem}-{name}"] = content
        text = text.replace(f"({name})", f"({file.stem}-{name})")
    return text, pictures


def commands():
    """What every command's `--help` prints, as one page."""
    os.environ["COLUMNS"] = str(WIDTH)
    from codegemma_keras.cli.commands import COMMANDS, main

    parts = ["# Command line", "", "`codegemma COMMAND --help` prints these texts."]
    for name, command in COMMANDS.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*name.split(), "--help"])
        text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).strip()
        if "usage" not in text:
            raise ValueError(f"codegemma {name} --help prints {text[:80]!r}.")
        about = command.summary[0].upper() + command.summary[1:]
        parts += [
            "",
            f"## codegemma {name}",
            "",
            f"{about}.",
            "",
            "```text",
            text,
            "```",
        ]
    return "\n".join(parts) + "\n"


def pages():
    """Write every page below `PAGES`."""
    shutil.rmtree(PAGES, ignore_errors=True)
    found = places()
    for file, page in found.items():
        target = PAGES / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".ipynb":
            text, pictures = notebook(file)
            target.write_text(moved(text, file, found, pictures), "utf-8")
            for name, content in pictures.items():
                (target.parent / name).write_bytes(content)
        elif file.suffix == ".md":
            target.write_text(moved(file.read_text("utf-8"), file, found), "utf-8")
        else:
            shutil.copy(file, target)
    (PAGES / "reference" / "commands.md").write_text(commands(), "utf-8")


def public_names():
    """`(page, name with its module)` of all that the pages of the reference list."""
    for file in sorted((ROOT / "docs" / "reference").glob("*.md")):
        for name, options in ENTRY.findall(file.read_text("utf-8") + "\n"):
            if "show_root_heading: false" not in options:
                yield file.stem, name
            if members := re.search(r"members: \[(.*)\]", options):
                for member in members[1].split(", "):
                    yield file.stem, f"{name}.{member}"


def not_shown():
    """Names that are listed for a page of the reference, and that it does not hold."""
    for page, name in public_names():
        text = (ROOT / "site" / "reference" / page / "index.html").read_text("utf-8")
        if f'id="{name}"' not in text:
            yield name


def with_raw_formulas():
    """Pages of the site that show LaTeX instead of formulas."""
    for file in sorted((ROOT / "site").rglob("*.html")):
        if site_mathematics.formulas_left(file.read_text("utf-8")):
            yield file.relative_to(ROOT).as_posix()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="?", choices=("pages",))
    only = parser.parse_args(argv).only
    try:
        pages()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if only:
        return 0
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean"]
    code = subprocess.run(build, cwd=ROOT).returncode
    if not code and (lost := list(not_shown())):
        # Names that a module makes when they are asked for are not seen in its text.
        print(
            f"Reference pages list names that the site lacks: {lost}", file=sys.stderr
        )
        return 1
    if not code and (raw := list(with_raw_formulas())):
        print(f"These pages show formulas as LaTeX: {raw}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
