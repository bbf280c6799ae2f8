"""The `codegemma` command: finds the command that is asked for and runs it.

A command is a function of one dataclass. Its fields are the options, their comments the
help, and tyro turns words into values, so that a command of the shell and a call from
Python take the same settings. A command's module is imported when it is asked for:
`codegemma --help` answers at once.

A mistake of the user's is one line on stderr and exit code 2. A fault of the package or
of a library under it keeps its traceback and exits with 1.
"""

import contextlib
import dataclasses
import importlib
import inspect
import os
import pathlib
import sys
import traceback

from codegemma_keras import __version__
from codegemma_keras.cli.process import BACKEND_HELP, choose_backend
from codegemma_keras.quiet import quiet_libraries

PACKAGE = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: str, its line in `codegemma --help`.
        function: `"module:name"` below `codegemma_keras`; takes one dataclass.
        keras: bool, whether the module imports Keras, so that the backend must be
            chosen before.
        backend: str, the one backend that it can run on, whatever the user's is.
    """

    summary: str
    function: str
    keras: bool = False
    backend: str | None = None

    def load(self):
        """The function, and the dataclass that it takes."""
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(f"codegemma_keras.{module}"), name)
        [parameter] = inspect.signature(function, eval_str=True).parameters.values()
        return function, parameter.annotation


COMMANDS = {
    "complete": Command(
        "fill in code at a position of a file", "cli.complete:complete"
    ),
    "serve": Command("complete code for editors, over HTTP", "cli.serve:serve"),
    "lsp": Command("complete code inline, as a language server", "cli.lsp:lsp"),
    "data build": Command("make training rows of repositories", "cli.data:build"),
    "data show": Command("look at the rows of a build", "cli.data:show"),
    "data instruct": Command(
        "make exercises of code, by a model and a sandbox",
        "recipes.instruct_data:make",
        keras=True,
    ),
    "eval": Command("measure a model on benchmarks", "cli.eval:evaluate"),
    "pretrain": Command(
        "train on code, from a preset or from nothing",
        "recipes.pretrain:train",
        keras=True,
    ),
    "sft": Command(
        "teach a preset to answer, from conversations", "recipes.sft:train", keras=True
    ),
    "rl": Command(
        "improve a model by rewards that can be checked",
        "recipes.rl:train",
        keras=True,
    ),
    "export": Command(
        "write a model for Transformers, vLLM, llama.cpp or Ollama",
        "cli.export:export",
        keras=True,
    ),
    "plan pretrain": Command(
        "say whether a pretraining fits a chip", "cli.plan:plan_pretrain", True, "jax"
    ),
    "plan sft": Command(
        "say whether a tuning fits a chip", "cli.plan:plan_sft", True, "jax"
    ),
    "plan rl": Command(
        "say whether reinforcement learning fits a chip",
        "cli.plan:plan_rl",
        keras=True,
        backend="jax",
    ),
}


def main(argv=None) -> int:
    """Run the command line.

    Args:
        argv: list of strings. Default: what the program was started with.

    Returns:
        The exit code: 0; 1 for a fault of the package; 2 for a mistake in the request
        or an output that cannot be written; 130 when interrupted.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if sys.stdout is None:
        print("codegemma: standard output is closed", file=sys.stderr)
        return 2
    if hasattr(sys.stdout, "reconfigure"):
        # A character that the terminal's encoding lacks must not lose the result.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `codegemma ... | head`: the reader has seen enough
        _drop_output()
        return 0
    except KeyboardInterrupt as stop:  # a training run says what it saved
        if str(stop):
            print(stop, file=sys.stderr)
        return getattr(stop, "exit_code", 130)
    except Exception as error:
        if not is_request_error(error):
            traceback.print_exc()
            return 1
        print(f"codegemma: {_one_line(error)}", file=sys.stderr)
        if isinstance(error, OSError):
            _drop_output()
        return 2


def _run(argv):
    name = next((n for n in _names(argv) if n in COMMANDS), None)
    if name is None:
        return _without_command(argv)
    command = COMMANDS[name]
    options = argv[len(name.split()) :]
    if command.backend:
        os.environ["KERAS_BACKEND"] = command.backend
        # Only its compiler is needed: the machine's own chips stay free.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if command.keras:
        choose_backend()
        with quiet_libraries():
            function, settings = command.load()
    else:
        function, settings = command.load()
    result = function(parse(settings, f"codegemma {name}", options))
    return result if isinstance(result, int) else 0  # a recipe returns its model


def parse(settings, program: str, argv):
    """An instance of the dataclass `settings` from the words of a command line."""
    import tyro

    return tyro.cli(settings, prog=program, args=argv)


def _names(argv):
    """What the first words may name, the longest name first."""
    yield " ".join(argv[:2])
    yield " ".join(argv[:1])


def _without_command(argv):
    if argv[:1] == ["--version"]:
        print(__version__)
        return 0
    family = [n for n in COMMANDS if argv and n.startswith(f"{argv[0]} ")]
    asked = not argv or argv[0] in ("-h", "--help")
    if asked or (family and argv[1:2] in ([], ["-h"], ["--help"])):
        print(_help(family or list(COMMANDS)))
        return 0 if argv else 2
    known = ", ".join(family or COMMANDS)
    print(
        f"codegemma: there is no command {' '.join(argv[: 1 + bool(family)])!r}; "
        f"there are {known}",
        file=sys.stderr,
    )
    return 2


def _help(names):
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {COMMANDS[name].summary}" for name in names]
    return "\n".join(
        [
            "usage: codegemma COMMAND [OPTIONS]",
            "",
            "CodeGemma: code completion, training data, training, evaluation.",
            "",
            "commands:",
            *lines,
            "",
            "`codegemma COMMAND --help` lists a command's options; `codegemma --version`",
            "prints the version.",
            "",
            BACKEND_HELP,
        ]
    )


def is_request_error(error: BaseException) -> bool:
    """Whether an error says what is wrong with the request, and not with the program.

    Errors of files and connections do. A ValueError, TypeError or ImportError does if
    this package raised it, because the package's messages are written for its user; the
    same error from inside a library is a fault that a developer must see.
    """
    if isinstance(error, OSError):
        return True
    kinds = (ValueError, ImportError, RuntimeError, FloatingPointError, MemoryError)
    if not isinstance(error, kinds):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file = pathlib.Path(frame.f_code.co_filename)
    return file.is_absolute() and file.is_relative_to(PACKAGE)


def _drop_output():
    """Let the interpreter's own flush at its end go nowhere, without a message."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__
