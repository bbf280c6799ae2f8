"""`evaluate`: tasks, a preset and a folder to samples, verdicts, scores and a report."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

from codegemma_keras import bars, files
from codegemma_keras.data.document import require
from codegemma_keras.evals import answers as given
from codegemma_keras.evals import catalog, comparison, report, run, summary
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.run import Run, Settings
from codegemma_keras.evals.task import SECONDS, in_chat
from codegemma_keras.sandbox import (
    Limits,
    MissingToolchainError,
    Pool,
    check_all,
    run_all,
)
from codegemma_keras.sandbox.levels import accepted


@dataclasses.dataclass(frozen=True)
class Judging:
    """How programs are judged.

    Attributes:
        least: the weakest of `sandbox.LEVELS` to accept.
        seconds: of the wall clock, for each program; None: the task's own.
        workers: programs at once; None: one for each processor.
        memory_mb: of each program.

    Examples:
        >>> with Judging(seconds=5.0).opened() as check:
        ...     found = check([])
        >>> found
        []
    """

    least: str = "bubblewrap"
    seconds: float | None = None
    workers: int | None = None
    memory_mb: int = 1024

    def __post_init__(self):
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(
                f"seconds={self.seconds:g} must be above 0: it is the time that a program "
                "may take. Leave it out for the task's own, 10 or 15 seconds."
            )
        if self.workers is not None and self.workers < 1:
            raise ValueError(
                f"workers={self.workers} must be at least 1: it is the number of programs "
                "at once. Leave it out for one per processor."
            )
        if self.memory_mb < 1:
            raise ValueError(
                f"memory_mb={self.memory_mb} must be at least 1: it is the memory of a "
                "program in megabytes. Leave it out for 1024."
            )

    @contextlib.contextmanager
    def opened(self):
        """A function from `task.Case`s to results, over warm sandboxes; a context."""
        with Pool(self.workers, least=self.least) as pool:
            yield functools.partial(self._check_all, pool)

    def _check_all(self, pool, cases):
        seconds = SECONDS if self.seconds is None else self.seconds
        limits = Limits(seconds=seconds, memory_mb=self.memory_mb)
        how = {"least": self.least, "pool": pool}
        outside = [(c.program, c.tests, c.names, c.helpers) for c in cases if c.names]
        found = iter(check_all(outside, limits, **how))
        inside = [f"{c.program}\n\n{c.tests}" for c in cases if not c.names]
        others = iter(run_all(inside, limits, **how))
        return [next(found if c.names else others) for c in cases]


def evaluate(
    tasks: Sequence[str],
    preset,
    out,
    *,
    adapter=None,
    convention: str = "paper",
    settings: Settings = Settings(),
    data: Data | None = None,
    answers: str | None = None,
    dtype: str | None = None,
    chat: bool = False,
    judging: Judging = Judging(),
    trained_on: Sequence[str] = (),
    compared_with=None,
    progress: bars.Progress | None = None,
) -> dict[str, dict]:
    """Measure a model on benchmarks.

    A folder that holds part of the same evaluation is gone on with.

    Args:
        tasks: names of `catalog.TASKS` or `catalog.GROUPS`.
        preset: name, handle or folder of a model, a `CodeGemmaCausalLM`, or what has the
            methods of `model.Model`.
        out: folder of the results.
        adapter: folder of an adapter in PEFT's format; the model of a preset is asked
            with it.
        convention: one of `task.CONVENTIONS`.
        settings: how samples are drawn.
        data: where benchmarks come from.
        answers: judge these instead of asking a model: `"canonical"`, `"empty"` or a
            file of samples.
        dtype: of the weights.
        chat: ask in the chat format, as instruct models are.
        judging: how programs are judged.
        trained_on: sources in which to look for the problems; see `contamination.texts`.
        compared_with: folder of another evaluation of the same tasks.
        progress: called with (stage, done, total). `bars.shown` makes such a function
            that shows bars.

    Returns:
        `{task: what scores.json holds}`.

    Raises:
        ValueError: an unknown task or convention; a folder of another evaluation.
        FileNotFoundError: the data of a task are nowhere.
        RuntimeError: no sandbox as strong as was asked for, or no task can be judged
            here for want of a compiler. Where some can, the others are left out, which
            stderr and the report say.
        ImportError: the extra `evals` is not installed.

    Examples:
        >>> with bars.shown() as progress:
        ...     found = evaluate(
        ...         ["gsm8k"],
        ...         lm,
        ...         "out",
        ...         settings=Settings(limit=2, batch_size=2),
        ...         progress=progress,
        ...     )
        >>> found["gsm8k"]["problems"]
        2
        >>> pathlib.Path("out", "report.html").exists()
        True
    """
    out, found = pathlib.Path(out).expanduser(), {}
    # All that can be wrong is said before hours of generation.
    made, left_out = _runnable(_make(tasks, convention, data or Data(), chat))
    if any(task.case for task, _ in made):
        accepted(judging.least)
    require("matplotlib", "evals")  # for the report
    contamination = _contamination(trained_on)
    if compared_with is not None:
        compared_with = pathlib.Path(compared_with).expanduser()
        ids = {task.name: _ids(settings, task) for task, _ in made}
        comparison.check(compared_with, ids)
    every = [task for task, _ in made]
    ask, said = _asker(preset, adapter, dtype, answers, settings, chat, every)
    for task, digests in made:
        question = {
            "task": task.name,
            "convention": task.convention,
            **said,
            **dataclasses.asdict(settings),
            "data": digests,
            "seconds": task.seconds if judging.seconds is None else judging.seconds,
        }
        folder = Run(out / task.name, question)
        ask(folder, task, progress)
        with _checker(task, judging) as check:
            run.judge(folder, task, check, settings, progress)
        found[task.name] = summary.summary(folder, task)
        folder.put("scores.json", found[task.name])
        given.write_bigcode(folder, task)
    if contamination:
        _look_for(contamination, every, out, trained_on)
    if compared_with is not None:
        for name in found:
            comparison.write(out / name, compared_with / name)
    report.put_left_out(out, left_out)
    report.write(out)
    return found


def _make(names, convention, data, chat):
    """`(task, hashes of its data)` of each name."""
    made = []
    for name in catalog.names(names):
        data.digests.clear()
        task = catalog.make(name, convention, data)
        made.append((in_chat(task) if chat else task, dict(data.digests)))
    if not made:
        raise ValueError(f"Name a task: {', '.join(catalog.TASKS)}.")
    data.check_used()
    return made


def _runnable(made):
    """Those of the tasks that can be judged here, and why not, of the others."""
    left_out = {task.name: why for task, _ in made if (why := task.lacking())}
    if len(left_out) == len(made):
        raise MissingToolchainError(" ".join(dict.fromkeys(left_out.values())))
    for name, why in left_out.items():
        sys.stderr.write(f"{name} is left out. {why}\n")
    return [(t, digests) for t, digests in made if t.name not in left_out], left_out


def _ids(settings, task):
    return [problem.id for problem in settings.chosen(task.problems)]


@contextlib.contextmanager
def _checker(task, judging):
    """What judges the cases of a task; None where it has none."""
    if task.case is None:
        yield None
    elif task.check_all is not None:
        yield functools.partial(task.check_all, judging=judging)
    else:
        with judging.opened() as check:
            yield check


def _contamination(trained_on):
    """The module that looks for problems in sources, which can be read; None for none."""
    if not trained_on:
        return None
    from codegemma_keras.evals import contamination

    contamination.check(trained_on)
    return contamination


def _look_for(contamination, tasks, out, trained_on):
    """Write `contamination.json` of each task."""
    found, documents = contamination.find(tasks, trained_on)
    for task in tasks:
        counts = summary.counts(out / task.name)
        said = contamination.about(task, counts, found, documents, trained_on)
        files.put(
            out / task.name / "contamination.json", (json.dumps(said) + "\n").encode()
        )


def _asker(
    preset, adapter, dtype, answers, settings, chat, tasks
) -> tuple[Callable, dict]:
    """What fills a run with samples, and what the question says of it."""
    if answers is not None:
        if adapter is not None:
            raise ValueError(
                f"adapter={str(adapter)!r} changes a model, and answers={answers!r} asks "
                "none. Leave one of them out."
            )

        if dtype is not None:
            raise ValueError(
                f"dtype={dtype!r} is of a model's weights, and answers={answers!r} asks no "
                "model. Leave one of them out."
            )
        if settings.samples > 1 or settings.temperature:
            raise ValueError(
                f"samples={settings.samples} and temperature={settings.temperature:g} say "
                f"how a model is asked, and answers={answers!r} asks none: all samples that "
                "are given are judged. Leave samples and temperature out."
            )
        said = given.describe(answers)
        samples = {
            task.name: given.read(answers, task, settings.chosen(task.problems))
            for task in tasks
        }

        def fill(folder, task, progress):
            folder.append("samples", samples[task.name])

        return fill, {"preset": None, "answers": said}
    model = open_model(preset, dtype, adapter)
    model.check(settings.sampling, chat)
    said = {
        "preset": model.name,
        "weights": model.fingerprint(),
        "dtype": model.dtype,
        "context": model.context,
        "backend": model.backend,
    }

    def generate(folder, task, progress):
        run.generate(folder, task, model, settings, progress)

    return generate, said


def open_model(preset, dtype=None, adapter=None):
    """A `model.Model` of a preset, of a `CodeGemmaCausalLM`, or as it is."""
    if adapter is not None and not isinstance(preset, (str, pathlib.Path)):
        raise ValueError(
            f"adapter={str(adapter)!r} is for a preset that is loaded here. Call "
            "lora.use(lm, adapter) on a model of your own."
        )
    if dtype is not None and not isinstance(preset, (str, pathlib.Path)):
        raise ValueError(
            f"dtype={dtype!r} is for a preset that is loaded here, and this model has its "
            "dtype already. Leave dtype out, or give the preset's name."
        )
    if hasattr(preset, "fingerprint"):
        return preset
    from codegemma_keras import CodeGemmaCausalLM, lora
    from codegemma_keras.evals.model import Model

    if isinstance(preset, (str, pathlib.Path)):
        lm = CodeGemmaCausalLM.from_preset(str(preset), dtype=dtype)
        if adapter is None:
            return Model(lm, str(preset))
        lora.use(lm, adapter)
        return Model(lm, f"{preset} with {adapter}")
    return Model(preset)
