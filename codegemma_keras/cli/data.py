"""`codegemma data build SOURCES... --out DIR` and `codegemma data show DIR`."""

import argparse
import pathlib
import sys

COLOURS = {
    "prefix": "cyan",
    "suffix": "magenta",
    "middle": "bold green",
    "path": "bold yellow",
    "control": "reverse dim",
}


def add_parser(subparsers):
    """Add the command `data` to the program's `argparse` subparsers.

    Each command sets `args.run`, to be called with the parsed arguments.
    """
    parser = subparsers.add_parser("data", help="repositories to training data")
    commands = parser.add_subparsers(required=True, metavar="build | show")
    _add_build(commands)
    show = commands.add_parser("show", help="print examples of a dataset in colour")
    show.add_argument("folder", type=pathlib.Path, metavar="DIR")
    show.add_argument("--rows", type=int, default=1, help="how many (default: 1)")
    show.add_argument("--start", type=int, default=0, help="the first (default: 0)")
    show.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour (default: auto, where the output is a terminal)",
    )
    show.set_defaults(run=run_show)
    return parser


def _add_build(commands):
    build = commands.add_parser(
        "build",
        help="build a dataset; run again to go on after an interruption",
        description="Turns folders, archives (sdist, wheel, zip, tar) and jsonl files "
        "into packed training rows, and writes a report of what was dropped and why.",
    )
    build.add_argument("sources", nargs="+", metavar="SOURCE")
    build.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR")
    build.add_argument(
        "--tokenizer",
        default="code_gemma_tiny_py",
        help="a preset or a SentencePiece file (default: %(default)s)",
    )
    build.add_argument("--length", type=int, default=8192, help="tokens per row (8192)")
    build.add_argument("--fim-rate", type=float, default=0.8, help="0.8; 2B v1.1: 0.9")
    build.add_argument(
        "--syntax-share",
        type=float,
        default=0.5,
        help="share of FIM splits that end at a node of the syntax tree (0.5)",
    )
    build.add_argument(
        "--line-share",
        type=float,
        default=0.0,
        help="share of FIM splits at whole lines or the rest of one (0)",
    )
    build.add_argument("--seed", type=int, default=0)
    build.add_argument(
        "--language", action="append", help="keep only these; may be repeated"
    )
    build.add_argument("--prose", action="store_true", help="Markdown and text, too")
    build.add_argument(
        "--any-licence", action="store_true", help="keep unknown and copyleft licences"
    )
    build.add_argument(
        "--secrets",
        choices=("replace", "drop", "keep"),
        default="replace",
        help="secrets, emails and IP addresses (default: replace)",
    )
    build.add_argument(
        "--threshold",
        type=float,
        default=None,
        help="similarity of near duplicates; 0 keeps them",
    )
    build.add_argument(
        "--decontaminate",
        action="append",
        default=[],
        metavar="FILE",
        help="a benchmark (HumanEval, infilling, MBPP, GSM8K jsonl); may be repeated",
    )
    build.add_argument("--workers", type=int, default=1, help="processes (1)")
    build.add_argument(
        "--keep-work", action="store_true", help="keep intermediate files"
    )
    build.set_defaults(run=run_build)


def run_build(args: argparse.Namespace) -> int:
    """Build, with a progress bar per stage on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from codegemma_keras.data.clean import dedup
    from codegemma_keras.data.languages import CODE, LANGUAGES, PROSE
    from codegemma_keras.data.pipeline import build as pipeline
    from codegemma_keras.data.pipeline.stages import Settings
    from codegemma_keras.data.rows.examples import FimSettings

    languages = tuple(args.language or CODE) + (PROSE if args.prose else ())
    unknown = sorted(set(languages) - set(LANGUAGES))
    if unknown:
        raise ValueError(f"Unknown languages {unknown}; known are {sorted(LANGUAGES)}.")
    settings = Settings(
        length=args.length,
        languages=languages,
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
    console = Console(stderr=True)
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        known = {name: bars.add_task(name, total=None) for name in pipeline.STAGES}

        def progress(stage, done, total):
            bars.update(known[stage], completed=done, total=total)

        pipeline.build(
            args.sources,
            args.out,
            args.tokenizer,
            settings,
            workers=args.workers,
            progress=progress,
            keep_work=args.keep_work,
        )
    text = (args.out / "report.md").read_text()
    summary = text.partition("\n## ")[0].partition("\n")[2].strip()
    sys.stdout.write(f"{summary}\n\n{args.out / 'report.html'}\n")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print rows: path, prefix, suffix and middle each in a colour of its own."""
    from rich.console import Console

    from codegemma_keras.data.rows.storage import Rows
    from codegemma_keras.tokenizer.codec import PlainCodec

    rows = Rows(args.folder)
    codec = PlainCodec((args.folder / "tokenizer.model").read_bytes())
    forced = {"auto": None, "always": True, "never": False}[args.color]
    console = Console(
        force_terminal=forced,
        no_color=args.color == "never",
        highlight=False,
        soft_wrap=True,
    )
    if not 0 <= args.start < len(rows):
        raise ValueError(f"--start {args.start} must be from 0 to {len(rows) - 1}.")
    for number in range(args.start, min(args.start + args.rows, len(rows))):
        row, start = rows[number], 0
        console.rule(f"row {number} of {len(rows)}")
        for size in row["segment_lengths"].tolist():
            parts = codec.decode_parts(row["tokens"][start : start + size].tolist())
            console.print(coloured(parts), end="\n\n")
            start += size
    return 0


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
        if at_path:
            path, newline, part = part.partition("\n")
            text.append(path + newline, COLOURS["path"])
            at_path = False
        text.append(part, style)
    return text
