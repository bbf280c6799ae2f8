"""The log of a run of reinforcement learning: `curve.csv`, the terminal, a picture.

A run that goes on drops what was logged after its checkpoint; it will be logged again,
the same but for the two speeds.
"""

from codegemma_keras import files
from codegemma_keras.training.progress import duration, read, say, show

COLUMNS = (
    "step",
    "tokens",  # sampled so far
    "reward",  # mean of the answers
    "best_of_group",  # mean of each group's best
    "silent",  # share of groups whose rewards are all equal: no signal
    "kl",  # from the first model, nats a token
    "entropy",  # nats a token
    "length",  # tokens of an answer
    "stopped",  # share of answers that ended by themselves
    "clipped",  # share of tokens whose ratio, or that of their answer, is clipped
    "gap",  # mean |log-probability in the update - in the rollout|, nats a token
    "largest_gap",
    "loss",
    "learning_rate",
    "held_out_pass_1",  # share of sampled answers to held-out prompts that are right
    "held_out_pass_k",  # of held-out prompts that one of k answers is right
    "rollout_tokens_per_second",
    "update_tokens_per_second",
)
TIMED = ("rollout_tokens_per_second", "update_tokens_per_second")


class Curve:
    """The log.

    Args:
        folder: `pathlib.Path`, for `curve.csv` and `curve.png`.
        done: int, the step that the run goes on from.
        steps: int, of the whole run.
    """

    def __init__(self, folder, done, steps):
        self.file = folder / "curve.csv"
        self._steps = steps
        self._seconds = []
        kept = [row for row in read(self.file) if row["step"] <= done]
        lines = [COLUMNS, *([show(row.get(n)) for n in COLUMNS] for row in kept)]
        files.put(self.file, "".join(",".join(x) + "\n" for x in lines).encode())

    def add(self, row: dict, seconds=None):
        """Write a line; columns that `row` has not stay empty."""
        with self.file.open("a", newline="") as file:
            file.write(",".join(show(row.get(name)) for name in COLUMNS) + "\n")
        parts = [f"step {row['step']}/{self._steps}"]
        for name, text in (
            ("reward", "reward {:.3f}"),
            ("silent", "{:.0%} silent"),
            ("kl", "KL {:.4f}"),
            ("entropy", "entropy {:.2f}"),
            ("length", "{:.0f} tokens"),
            ("held_out_pass_1", "held out pass@1 {:.1%}"),
        ):
            if row.get(name) is not None:
                parts.append(text.format(row[name]))
        if seconds is not None:
            self._seconds = [*self._seconds[-9:], seconds]
            pace = sum(self._seconds) / len(self._seconds)
            left = (self._steps - row["step"]) * pace
            parts.append(f"{duration(left)} left")
        say(", ".join(parts))

    def draw(self):
        """Write `curve.png`, if matplotlib is there."""
        draw(self.file, self.file.with_suffix(".png"))


def draw(file, picture):
    """Rewards and held-out rates above, divergence and entropy below."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say(f"no {picture}: matplotlib is not installed; {file} has the numbers")
        return
    rows = read(file)
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for axes, names in (
        (above, ("reward", "held_out_pass_1", "held_out_pass_k", "silent")),
        (below, ("kl", "entropy")),
    ):
        for name in names:
            points = [(r["step"], r[name]) for r in rows if r[name] is not None]
            if points:
                mark = "o-" if name.startswith("held_out") else "-"
                axes.plot(
                    *zip(*points, strict=True), mark, label=name.replace("_", " ")
                )
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    below.set_xlabel("step")
    figure.savefig(picture, dpi=120)
