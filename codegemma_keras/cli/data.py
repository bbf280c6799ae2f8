"""`codegemma data build SOURCES... --out DIR` and `codegemma data show DIR`."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import sys
from typing import Annotated, Literal

import tyro

from codegemma_keras import bars
from codegemma_keras.cli.process import visible

MAX_PATHS = 12  # named above a segment
COLOURS = {
    "prefix": "cyan",
    "suffix": "magenta",
    "middle": "bold green",
    "path": "bold yellow",
    "control": "reverse dim",
}


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """Make a dataset of packed training rows. Run the command again after a stop.

    The sources are folders, archives (sdist, wheel, zip, tar) and jsonl files. A report
    says what was dropped and why.
    """

    # Folders, archives and jsonl files to read.
    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")
    ]
    # The folder of the dataset. With --runner, it may be in a store that Beam knows
    # (gs://, s3://).
    out: str
    # The tokenizer: a preset or a SentencePiece file.
    tokenizer: str = "code_gemma_tiny_py"
    # The number of tokens in a row.
    length: int = 8192
    # The share of files that become fill-in-the-middle examples. CodeGemma 2B 1.1 used 0.9.
    fim_rate: float = 0.8
    # The share of their splits that end at a node of the syntax tree.
    syntax_share: float = 0.5
    # The share of their splits at whole lines or the rest of a line.
    line_share: float = 0.0
    # The seed of the splits and of the order of rows.
    seed: int = 0
    # Keep only these programming languages.
    language: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # Keep Markdown and plain text, too.
    prose: bool = False
    # Also keep files with an unknown or a copyleft licence.
    any_licence: bool = False
    # What happens to secrets, email and IP addresses.
    secrets: Literal["replace", "drop", "keep"] = "replace"
    # The similarity, from 0 to 1, at which two files count as near duplicates. 0 keeps all.
    threshold: float | None = None
    # Benchmark files whose problems must not be trained on (HumanEval, infilling, MBPP,
    # GSM8K as jsonl).
    decontaminate: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # The number of processes.
    workers: int = 1
    # Keep the intermediate files.
    keep_work: bool = False
    # Build on Apache Beam instead (extra "beam"): on this machine or on a cluster.
    runner: Literal["direct", "flink", "spark", "dataflow", "prism"] | None = None
    # An option of Beam's own, as NAME=VALUE, such as flink_master=localhost:8081.
    beam_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """Print rows of a dataset, with path, prefix, suffix and middle in different colours.

    The line above each segment names its repository and files.
    """

    # The folder of the dataset.
    folder: Annotated[
        pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")
    ]
    # The number of rows to print.
    rows: int = 1
    # The number of the first row to print.
    start: int = 0
    # Whether to use colours. "auto" uses them if the output is a terminal.
    color: Literal["auto", "always", "never"] = "auto"
    # Show one page at a time on a terminal.
    pager: bool = True


def build(args: BuildOptions) -> None:
    """Build, and show the progress of each stage on stderr."""
    from codegemma_keras.data.pipeline import build as pipeline

    settings = settings_of(args)
    if args.runner is not None:
        _print_summary(_build_on_runner(args, settings), args.out)
        return
    if args.beam_option:
        raise ValueError("--beam-option needs --runner, such as --runner flink.")
    stages = set()
    with bars.shown() as show:

        def progress(stage, done, total):
            stages.add(stage)
            show(stage, done, total)

        pipeline.build(
            args.sources,
            args.out,
            args.tokenizer,
            settings,
            workers=args.workers,
            progress=progress,
            keep_work=args.keep_work,
        )
    if not stages:
        sys.stdout.write(f"{args.out} was already built. Nothing was done.\n\n")
    report = pathlib.Path(args.out, "report.md").read_text("utf-8")
    _print_summary(report, args.out)


def _build_on_runner(args, settings):
    """Build by a Beam runner; gives the report in Markdown."""
    if args.keep_work:
        raise ValueError(
            "--keep-work is for a build without --runner: Beam keeps none."
        )
    if args.workers != 1 and args.runner != "direct":
        raise ValueError(
            f"--workers is for --runner direct. How many {args.runner} uses is an option "
            "of its own, such as --beam-option parallelism=8 or max_num_workers=8."
        )
    from codegemma_keras.data.pipeline import beam_runner

    options = [f"--{option.lstrip('-')}" for option in args.beam_option]
    return beam_runner.build_on(
        args.runner,
        args.sources,
        args.out,
        args.tokenizer,
        settings,
        options,
        args.workers,
    )


def _print_summary(report, out):
    summary = report.partition("\n## ")[0].partition("\n")[2].strip()
    sys.stdout.write(f"{summary}\n\n{out.rstrip('/')}/report.html\n")


def settings_of(args: BuildOptions):
    """The `Settings` that the arguments of `data build` ask for."""
    from codegemma_keras.data.clean import dedup
    from codegemma_keras.data.languages import CODE, PROSE
    from codegemma_keras.data.pipeline.settings import Settings
    from codegemma_keras.data.rows.fim_split import FimSettings

    return Settings(
        length=args.length,
        languages=tuple(args.language or CODE) + (PROSE if args.prose else ()),
        secrets=args.secrets,
        threshold=dedup.THRESHOLD if args.threshold is None else args.threshold,
        benchmarks=tuple(args.decontaminate),
        fim=FimSettings(
            args.fim_rate,
            syntax_share=args.syntax_share,
            line_share=args.line_share,
            seed=args.seed,
        ),
        **({"licences": None} if args.any_licence else {}),
    )


def show(args: ShowOptions) -> None:
    """Print rows: path, prefix, suffix and middle each in a colour of its own."""
    from rich.console import Console

    from codegemma_keras.data.rows.storage import Rows
    from codegemma_keras.tokenizer.codec import PlainCodec

    if args.rows < 1:
        raise ValueError(f"--rows {args.rows} must be 1 or more.")
    rows = Rows(args.folder)
    if not 0 <= args.start < len(rows):
        raise ValueError(f"--start {args.start} must be from 0 to {len(rows) - 1}.")
    codec = PlainCodec((args.folder / "tokenizer.model").read_bytes())
    console = Console(
        force_terminal={"auto": None, "always": True, "never": False}[args.color],
        no_color=args.color == "never",
        highlight=False,
        soft_wrap=True,
    )
    paged = sys.stdout.isatty() and args.pager
    if paged:
        os.environ.setdefault("LESS", "-R")  # Else it shows colours as text.
    with console.pager(styles=True) if paged else contextlib.nullcontext():
        for number in range(args.start, min(args.start + args.rows, len(rows))):
            console.rule(f"row {number} of {len(rows)}")
            print_row(console, rows[number], contents_of(args.folder, number), codec)


def contents_of(folder: pathlib.Path, number: int) -> list[dict]:
    """The repository and files of each segment of a row; none for older datasets."""
    path = folder / "rows.jsonl"
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return json.loads(next(itertools.islice(file, number, None)))


def print_row(console, row, contents, codec):
    """Print each segment of a row below its repository and files."""
    for segment, entry in itertools.zip_longest(row, contents):
        parts = codec.decode_parts(segment)
        if entry:
            paths = entry["paths"]
            names = ", ".join(paths[:MAX_PATHS]) + ", ..." * (len(paths) > MAX_PATHS)
            files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
            said = visible(f"{entry['repo']}: {files}: {names}")
            console.print(said, style="bold", markup=False)
        console.print(coloured(parts), end="\n\n")


def coloured(parts):
    """A rich `Text` of one segment's parts."""
    from rich.text import Text

    from codegemma_keras import fim

    names = {fim.PREFIX: "prefix", fim.SUFFIX: "suffix", fim.MIDDLE: "middle"}
    text, style, at_path = Text(), "", True
    for part in parts:
        if isinstance(part, fim.Control):
            style = COLOURS[names[part]] if part in names else ""
            at_path = part in (fim.START, fim.FILE_SEPARATOR)
            text.append(str(part), COLOURS["control"])
            if part == fim.FILE_SEPARATOR:
                text.append("\n")
            continue
        part = visible(part)
        if at_path:
            path, newline, part = part.partition("\n")
            text.append(path + newline, COLOURS["path"])
            at_path = False
        text.append(part, style)
    return text
