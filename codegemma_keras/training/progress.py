"""What a run shows: `curve.csv`, the terminal, TensorBoard, and a picture at the end.

The losses stand in the file in full, so that two runs can be compared to the last bit.
A run that goes on drops what was logged after its checkpoint: it will be logged again.

Left out: other trackers; `curve.csv` is what they would be fed with.
"""

import csv
import math

from codegemma_keras import files, hosts

COLUMNS = (
    "step",  # updates
    "tokens",  # seen, padding included
    "loss",  # mean since the line before
    "held_out_loss",
    "learning_rate",
    "tokens_per_second",
    "mfu",  # model flops utilisation, a share of the stated peak
)


class Curve:
    """The log of a run.

    Args:
        folder: `pathlib.Path` for `curve.csv` and, if asked for, `tensorboard/`.
        done: int, the step that the run goes on from.
        steps: int, of the whole run.
        tokens: int, of a step.
        flops: operations a token needs; with `peak` it gives MFU.
        peak: operations a second of all devices; None where it is not known.
        tensorboard: bool; whether to write events too.
    """

    def __init__(self, folder, done, steps, tokens, flops, peak, tensorboard=False):
        self._steps, self._tokens = steps, tokens
        self._flops, self._peak = flops, peak
        self._losses, self._seconds = [], []
        self._pace = None  # seconds of a step
        self._alone = True  # no step but the one that compiled
        log = Log if hosts.is_first() else NoLog
        self._log = log(folder, done, tensorboard)

    def add(self, loss, seconds):
        """Take note of a step."""
        self._losses.append(loss)
        self._seconds.append(seconds)
        # The first step compiles; it would spoil the mean for long.
        self._alone = self._pace is None
        if self._pace is None or seconds < self._pace / 4:
            self._pace = seconds
        self._pace += 0.1 * (seconds - self._pace)

    def start(self, held_out):
        """Write the line of step 0, before any training: the held-out loss alone."""
        values = dict.fromkeys(COLUMNS) | {"step": 0, "tokens": 0}
        self._write(values | {"held_out_loss": held_out})

    def log(self, step, held_out, rate):
        """Write a line: the mean since the last one."""
        count = len(self._losses)
        speed = self._tokens * count / sum(self._seconds)
        mfu = self._flops * speed / self._peak if self._peak else None
        values = (
            step,
            step * self._tokens,
            math.fsum(self._losses) / count,
            held_out,
            float(f"{rate:.6g}"),
            float(f"{speed:.4g}"),
            None if mfu is None else round(mfu, 4),
        )
        self._losses, self._seconds = [], []
        self._write(dict(zip(COLUMNS, values, strict=True)))

    def _write(self, row):
        self._log.write(row, self._line(row))

    def _line(self, row):
        parts = [f"step {row['step']}/{self._steps}"]
        if row["loss"] is not None:
            parts.append(f"loss {row['loss']:.3f}")
        if row["held_out_loss"] is not None:
            parts.append(f"held out {row['held_out_loss']:.3f}")
        if row["tokens_per_second"] is None:
            return ", ".join(parts)
        if self._alone and row["step"] < self._steps:
            return ", ".join([*parts, "and its program is compiled"])
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
        if row["mfu"] is not None:
            parts.append(f"MFU {row['mfu']:.1%}")
        left = (self._steps - row["step"]) * self._pace
        return ", ".join([*parts, f"{duration(left)} left"])

    def close(self):
        """Finish the log."""
        self._log.close()


class Log:
    """Where lines go: `curve.csv`, the terminal, TensorBoard, and a picture at the end.

    Args:
        folder, done, tensorboard: as of `Curve`.
    """

    def __init__(self, folder, done, tensorboard):
        self._file = folder / "curve.csv"
        kept = [row for row in read(self._file) if row["step"] <= done]
        lines = [COLUMNS, *([show(row.get(n)) for n in COLUMNS] for row in kept)]
        text = "".join(",".join(line) + "\n" for line in lines)
        files.put(self._file, text.encode())
        self._events = _events(folder, done) if tensorboard else None

    def write(self, row, line):
        """Add the values of a row, and show a line to the person who watches."""
        with self._file.open("a", newline="") as file:
            file.write(",".join(map(show, row.values())) + "\n")
        if self._events:
            for name in COLUMNS[2:]:
                if row[name] is not None:
                    self._events.add_scalar(name, row[name], row["step"])
            self._events.flush()
        say(line)

    def close(self):
        """Finish the events and draw `curve.png`, if matplotlib is there."""
        if self._events:
            self._events.close()
        draw(self._file, self._file.with_suffix(".png"))


class NoLog:
    """The log of all processes but the first one, which writes for them."""

    def __init__(self, folder, done, tensorboard):
        pass

    def write(self, row, line):
        pass

    def close(self):
        pass


def say(text):
    """A line for the person who watches the run, from the first of several processes."""
    if hosts.is_first():
        print(text, flush=True)


def duration(seconds) -> str:
    """`90` -> `1 min`, `8000` -> `2 h 13 min`."""
    minutes = int(seconds // 60)
    if not minutes:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def show(value) -> str:
    """A number so that it can be read back exactly; nothing for None."""
    return "" if value is None else repr(value)


def read(file) -> list[dict]:
    """The lines of a `curve.csv`: column -> number or None; none if it is not there.

    What a crash left of a last line is skipped.
    """
    if not file.exists():
        return []
    text = file.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be half a line
    rows = []
    for line in csv.DictReader(lines):
        row = {name: float(value) if value else None for name, value in line.items()}
        row["step"], row["tokens"] = int(line["step"]), int(line["tokens"])
        rows.append(row)
    return rows


def draw(file, picture):
    """The losses of a `curve.csv` as a picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say(f"no {picture}: matplotlib is not installed; {file} has the numbers")
        return
    rows = read(file)
    if not rows:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats a token)")
    steps = [r for r in rows if r["loss"] is not None]
    axes.plot([r["step"] for r in steps], [r["loss"] for r in steps], label="training")
    points = [r for r in rows if r["held_out_loss"] is not None]
    if points:
        losses = [r["held_out_loss"] for r in points]
        axes.plot([r["step"] for r in points], losses, "o-", label="held out")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=120)


def _events(folder, done):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError(
            "tensorboard=True needs tensorboardX (it writes TensorBoard's files without "
            'TensorFlow): pip install "codegemma-keras[train]". curve.csv has the same '
            "numbers without it."
        ) from None
    # Of what was logged after the checkpoint, TensorBoard forgets the first version.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
