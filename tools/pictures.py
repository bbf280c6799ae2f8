"""The pictures of README.md and docs/, made from what the programs really print.

    python tools/pictures.py completion     docs/images/completion.svg: what `make demo` shows
    python tools/pictures.py data           docs/images/report.png and graph.svg: the report
                                            of a data build, and its graph of files
    python tools/pictures.py vim            docs/images/vim.svg: ghost text in Vim
    python tools/pictures.py emacs          docs/images/emacs.svg: ghost text in Emacs

`completion` needs the model that `make demo` downloads. `data` needs Chromium, which the
environment variable CHROMIUM names. `vim` and `emacs` need what `make test-clients` needs
for these, with LLAMA_VIM or MINUET set as there. The picture of JupyterLab is made by
`make test-jupyterlab`, which drives it.
"""

import argparse
import importlib.util
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.text import Text

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
# Small enough for the names of its files to be read.
PACKAGE = "requests"
COLUMNS = 92  # of the terminal
PIXELS = (900, 980)  # of the browser's window
SCREEN_COLUMNS, SCREEN_LINES = 80, 12  # of an editor's screen


def demo_command():
    """The arguments of `codegemma` in the recipe of `make demo`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return shlex.split(re.search(r"^demo:.*\n\t\S*codegemma (.*)", makefile, re.M)[1])


def codegemma(*arguments, **environment):
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "codegemma_keras.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def completion():
    """The terminal after `make demo`, with its colours."""
    command = demo_command()
    printed = codegemma(*command, FORCE_COLOR="1", COLUMNS=str(COLUMNS))
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(f"[bold]$[/] codegemma {shlex.join(command)}", highlight=False)
    console.print(Text.from_ansi(printed))
    console.save_svg(str(IMAGES / "completion.svg"), title="codegemma complete")


def data():
    """The report of a data build of an installed package: first screen, and graph."""
    installed = importlib.util.find_spec(PACKAGE).submodule_search_locations[0]
    with tempfile.TemporaryDirectory() as folder:
        package, out = f"{folder}/{PACKAGE}", pathlib.Path(folder) / "rows"
        shutil.copytree(installed, package, ignore=shutil.ignore_patterns("*.pyc"))
        # An installed package keeps its licence in another folder.
        codegemma("data", "build", package, "--out", str(out), "--any-licence")
        page = out / "report.html"
        graph = page.read_text(encoding="utf-8").partition("<h2>The order of ")[2]
        graph = re.search(r"(<svg [^>]*>)(.*?</svg>)", graph, re.S)
        # Without a background, dark pages would hide the names.
        white = '<rect width="100%" height="100%" fill="white"/>'
        (IMAGES / "graph.svg").write_text(graph[1] + white + graph[2], "utf-8")
        browser = os.environ.get("CHROMIUM", "chromium")
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--hide-scrollbars", f"--window-size={PIXELS[0]},{PIXELS[1]}"),
                *(f"--screenshot={IMAGES / 'report.png'}", page.as_uri()),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )


def vim():
    """Vim with llama.vim, as the test of it sees the screen."""
    _screen("vim", "vim.svg", "Vim with llama.vim")


def emacs():
    """Emacs with minuet, the same way."""
    _screen("minuet", "emacs.svg", "Emacs with minuet")


def _screen(test, picture, title):
    """What a test of `tests/optional/clients.py` sees in the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        screen = pathlib.Path(folder) / "screen"
        subprocess.run(
            [
                *(".venv-clients/bin/python", "-m", "pytest", "--noconftest", "-q"),
                *("-p", "no:cacheprovider", "tests/optional/clients.py", "-k", test),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "CODEGEMMA": f"{sys.executable} -m codegemma_keras.cli",
                "MODEL": "smollm2_135m_code",
                "NODE": ".venv-clients/node",
                "SCREEN": str(screen),
                "TERM": "xterm-256color",
            },
            check=True,
        )
        lines = screen.read_text("utf-8").splitlines()
    console = Console(record=True, width=SCREEN_COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(lines[:SCREEN_LINES])))
    console.save_svg(str(IMAGES / picture), title=title)


def main(argv=None):
    makers = {maker.__name__: maker for maker in (completion, data, vim, emacs)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", choices=makers)
    for name in parser.parse_args(argv).pictures:
        IMAGES.mkdir(exist_ok=True)
        makers[name]()


if __name__ == "__main__":
    main()
