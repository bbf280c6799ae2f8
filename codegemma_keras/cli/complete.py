"""The command line: `codegemma complete FILE --line N`.

Thin: it reads files, calls the library and prints. Keras and the model are imported
inside the commands, so `codegemma --help` answers at once. A mistake of the user's is
one line on stderr and exit code 2.
"""

import argparse
import contextlib
import faulthandler
import functools
import importlib.util
import json
import logging
import os
import pathlib
import re
import sys
import tempfile
import time

from codegemma_keras import __version__
from codegemma_keras.cli import data as data_cli
from codegemma_keras.cli import plan as plan_cli

DEFAULT_PRESET = "code_gemma_tiny_py"
# What the library raises about a request says what to do; no traceback is needed.
REQUEST_ERRORS = (ValueError, OSError, ImportError)
# Lines shown on each side of a completion.
SURROUNDINGS = 8

BACKEND_HELP = """\
backend: KERAS_BACKEND, if set; else the one in Keras's own configuration file, if that
names another than Keras's default; else JAX, if installed (it decodes faster);
else TensorFlow."""


def main(argv=None) -> int:
    """Run the command line.

    Args:
        argv: list of strings. Default: what the program was started with.

    Returns:
        The exit code: 0, 2 for a mistake in the request, 130 when interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except REQUEST_ERRORS as error:
        if isinstance(error, BrokenPipeError):  # `codegemma ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"codegemma: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="codegemma",
        description="Code completion with CodeGemma.",
        epilog=BACKEND_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_complete(subparsers)
    data_cli.add_parser(subparsers)
    plan_cli.add_parser(subparsers)
    return parser


def _add_complete(subparsers):
    parser = subparsers.add_parser(
        "complete",
        help="fill in code at a position of a file",
        description="Print what belongs at a position of a file, in place: the lines "
        f"around it ({SURROUNDINGS} on each side) with the completion in colour on a "
        "terminal. The file is not changed.",
        epilog=BACKEND_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a text file in UTF-8")
    parser.add_argument(
        "--line", type=int, required=True, help="line of the cursor, the first is 1"
    )
    parser.add_argument(
        "--column",
        type=int,
        help="column of the cursor in characters; 1 is before the first one "
        "(default: end of the line)",
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help="name, kaggle://..., hf://... or folder (default: %(default)s)",
    )
    parser.add_argument(
        "--context",
        metavar="FILE",
        nargs="+",
        action="extend",
        default=[],
        help="other files to show to the model, the most related last",
    )
    parser.add_argument(
        "--max-new-tokens", type=_positive, default=128, help="default: %(default)s"
    )
    parser.add_argument(
        "--until",
        choices=("line", "block", "none"),
        default="block",
        help="end before the line's end, where the cursor's indented block ends "
        "(default), or only where the model does",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 takes the most probable token each time (default), 1 samples",
    )
    parser.add_argument("--seed", type=int, help="makes sampling repeatable")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=complete)


def complete(args):
    """`codegemma complete`: everything about the request is checked before loading."""
    text = read_text(args.file)
    cursor = find_cursor(text, args.line, args.column, args.file)
    prefix, suffix = text[:cursor], text[cursor:]
    context = [(_repository_path(path), read_text(path)) for path in args.context]

    start = time.perf_counter()
    choose_backend()
    with quiet_libraries():
        from codegemma_keras import CodeGemmaCausalLM, Sampling

        sampling = Sampling(temperature=args.temperature)
        lm = CodeGemmaCausalLM.from_preset(args.preset)
    loaded = time.perf_counter()
    completion = lm.complete(
        prefix,
        suffix,
        path=_repository_path(args.file),
        context=context,
        max_new_tokens=args.max_new_tokens,
        until=None if args.until == "none" else args.until,
        sampling=sampling,
        seed=args.seed,
    )
    done = time.perf_counter()
    if args.json:
        print(json.dumps(_as_json(completion, prefix, suffix, start, loaded, done)))
    else:
        _print_in_place(prefix, completion.text, suffix)


def _as_json(completion, prefix, suffix, start, loaded, done):
    return {
        "completion": completion.text,
        "stop_reason": completion.stop_reason,
        "tokens": len(completion.token_ids),
        "prompt_tokens": completion.prompt_tokens,
        # Characters: of the file, and of what fitted into the model's context.
        "prefix_length": len(prefix),
        "suffix_length": len(suffix),
        "prefix_used": len(completion.prefix),
        "suffix_used": len(completion.suffix),
        "load_seconds": round(loaded - start, 3),
        "seconds": round(done - loaded, 3),
    }


def _print_in_place(prefix, middle, suffix):
    from rich.console import Console
    from rich.text import Text

    before = "".join(split_lines(prefix)[-SURROUNDINGS - 1 :])
    after = "".join(split_lines(suffix)[: SURROUNDINGS + 1])
    if not after.endswith("\n"):
        after += "\n"
    console = Console(highlight=False)
    if not console.is_terminal:  # exactly what the file would hold
        sys.stdout.write(before + middle + after)
        return
    shown = Text(_visible(before)).append(_visible(middle), style="bold green")
    console.print(shown.append(_visible(after)), end="", soft_wrap=True)


def _visible(text):
    # Neither a file nor a model may drive the terminal by escape sequences.
    return text.replace("\x1b", "\N{SYMBOL FOR ESCAPE}")


# --- The user's files ---------------------------------------------------------------


def read_text(path: str) -> str:
    """A text file as it is: line ends kept, a byte order mark dropped.

    Raises:
        ValueError: no such file, a folder, not UTF-8.
    """
    try:
        return pathlib.Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a file") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it first"
        ) from None


def split_lines(text: str) -> list[str]:
    r"""Lines with their ends, as editors count them: \n, \r\n and \r end a line.

    A text that ends in a line end has an empty last line, where a cursor can stand.
    """
    return re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)


def find_cursor(text: str, line: int, column: int | None, name: str) -> int:
    """Index in `text` of a 1-based line and column (None: the end of the line).

    Raises:
        ValueError: outside the text.
    """
    lines = split_lines(text)
    if not 1 <= line <= len(lines):
        raise ValueError(
            f"--line {line} is outside {name}, whose lines go from 1 to {len(lines)}"
        )
    length = len(lines[line - 1].rstrip("\r\n"))
    if column is None:
        column = length + 1
    if not 1 <= column <= length + 1:
        raise ValueError(
            f"--column {column} is outside line {line} of {name}, whose columns go "
            f"from 1 to {length + 1}"
        )
    return sum(len(each) for each in lines[: line - 1]) + column - 1


def _repository_path(path: str) -> str:
    """The path shown to the model: relative to the working folder, as in training.

    A file elsewhere goes by its name alone, so a home folder's name stays private.
    """
    absolute = pathlib.Path(path).resolve()
    try:
        return absolute.relative_to(pathlib.Path.cwd().resolve()).as_posix()
    except ValueError:
        return absolute.name


# --- The process --------------------------------------------------------------------


def choose_backend():
    """Prefer JAX where nobody chose; `BACKEND_HELP` states the rule.

    Must run before Keras is imported.
    """
    if os.environ.get("KERAS_BACKEND") or _configured_backend() != "tensorflow":
        return
    if importlib.util.find_spec("jax") is not None:
        os.environ["KERAS_BACKEND"] = "jax"


def _configured_backend() -> str:
    # Keras writes this file by itself, with its default: so the default is no choice.
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    path = pathlib.Path(home).expanduser() / "keras.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):
        return "tensorflow"


@contextlib.contextmanager
def quiet_libraries():
    """Hide what C++ libraries print on stderr while they start up.

    TensorFlow writes a dozen lines before it reads any setting of what to log. Python's
    own stderr (warnings, the progress of a download) stays as it is, and what was
    hidden is printed after an error that is not the user's.
    """
    # Once they have started: errors only. A user's own setting wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        before = os.dup(2)
    except OSError:  # closed: nothing to hide
        yield
        return
    with tempfile.TemporaryFile() as hidden, contextlib.redirect_stderr(_stderr()):
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except REQUEST_ERRORS:
            raise
        except Exception:
            hidden.seek(0)
            os.write(before, hidden.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def _stderr():
    """Python's stderr, on a descriptor of its own if it was on 2."""
    try:
        return _second_stderr() if sys.stderr.fileno() == 2 else sys.stderr
    except (AttributeError, OSError):  # none at all, or not a file
        return sys.stderr


@functools.cache
def _second_stderr():
    # Kept open: a logger that is made meanwhile keeps writing to it.
    stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    faulthandler.enable(stderr)  # so that a crash of a library is seen
    return stderr


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
