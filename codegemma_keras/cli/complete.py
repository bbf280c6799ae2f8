"""`codegemma complete FILE --line N`: fill in code at a position of a file."""

import dataclasses
import json
import pathlib
import re
import sys
import time
from typing import Annotated, Literal

import tyro

from codegemma_keras.cli.process import choose_backend, visible
from codegemma_keras.quiet import quiet_libraries
from codegemma_keras.server.settings import DEFAULT_PRESET

# Lines shown on each side of a completion.
SURROUNDINGS = 8


@dataclasses.dataclass(frozen=True)
class CompleteOptions:
    """Print what belongs at a position of a file, in place.

    The lines around the position are printed with the completion, which has a colour on
    a terminal. The file is not changed.
    """

    # A text file in UTF-8.
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    # Line of the cursor; the first is 1.
    line: int
    # Column of the cursor in characters; 1 is before the first one. Without it the
    # cursor is at the end of the line.
    column: int | None = None
    # The model: a name, kaggle://..., hf://... or a folder.
    preset: str = DEFAULT_PRESET
    # The folder of an adapter in PEFT's format, such as `codegemma sft` writes. The model
    # is used with it.
    adapter: str | None = None
    # Other files that the model should see, with the most related one last.
    context: tuple[str, ...] = ()
    # The most tokens that the completion may have.
    max_new_tokens: int = 128
    # Where the completion ends at the latest: at the end of the line, at the end of the
    # cursor's indented block, or only where the model ends it.
    until: Literal["line", "block", "none"] = "block"
    # Print the model's own text, even where it repeats what stands around the cursor.
    untidy: bool = False
    # 0 always takes the most probable token; 1 samples from the model's probabilities.
    temperature: float = 0.0
    # A whole number that makes sampling repeatable.
    seed: int | None = None
    # Print one JSON object with the completion, why it ended, and the times.
    json: bool = False


def complete(options: CompleteOptions) -> None:
    """Complete and print; everything about the request is checked before loading."""
    if options.max_new_tokens < 1:
        raise ValueError(
            f"--max-new-tokens {options.max_new_tokens} must be a whole number above 0"
        )
    text = read_text(options.file)
    cursor = find_cursor(text, options.line, options.column, options.file)
    prefix, suffix = text[:cursor], text[cursor:]
    context = [(_repository_path(path), read_text(path)) for path in options.context]

    start = time.perf_counter()
    choose_backend()
    with quiet_libraries():
        from codegemma_keras import CodeGemmaCausalLM, Sampling, lora
        from codegemma_keras.decoding.compilation import keep_compiled_in_cache

        keep_compiled_in_cache()
        sampling = Sampling(temperature=options.temperature)
        lm = CodeGemmaCausalLM.from_preset(options.preset)
        if options.adapter is not None:
            lora.use(lm, options.adapter)
    loaded = time.perf_counter()
    with _waiting():
        completion = lm.complete(
            prefix,
            suffix,
            path=_repository_path(options.file),
            context=context,
            max_new_tokens=options.max_new_tokens,
            until=None if options.until == "none" else options.until,
            tidy=not options.untidy,
            sampling=sampling,
            seed=options.seed,
        )
    done = time.perf_counter()
    if options.json:
        print(json.dumps(_as_json(completion, prefix, suffix, start, loaded, done)))
    else:
        _print_in_place(prefix, completion.text, suffix)


def _waiting():
    """On a terminal, a line that says why nothing is to be seen yet."""
    from rich.console import Console

    return Console(stderr=True).status(
        "Completing. The first time, programs are compiled, which takes some seconds."
    )


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
    shown = Text(visible(before)).append(visible(middle), style="bold green")
    console.print(shown.append(visible(after)), end="", soft_wrap=True)


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
