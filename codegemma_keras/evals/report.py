"""The report of a folder of runs: `report.md`, and `report.html` with pictures.

It reads the folders only, so it can be made again at any time. Text of models and of
benchmarks is escaped.
"""

import html
import json
import pathlib
import re
from collections.abc import Iterator, Mapping

from codegemma_keras import files
from codegemma_keras.evals import answers, paper, pictures, summary
from codegemma_keras.evals.data import parsed

LEFT_OUT = "left_out.json"
EXAMPLES = 12  # failures that are shown
SHOWN = 3_000  # characters of one text
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def load(out: pathlib.Path) -> list[dict]:
    """What each finished run in a folder says: its scores, and its folder's path."""
    found = []
    for path in sorted(pathlib.Path(out).glob("*/scores.json")):
        found.append({**parsed(path.read_bytes(), path), "folder": path.parent})
    return found


def write(out: pathlib.Path) -> None:
    """Write the report of all finished runs in a folder."""
    out = pathlib.Path(out)
    runs, missing = load(out), left_out(out)
    files.put(out / "report.md", markdown(runs, missing).encode())
    made = page(runs, missing)
    files.put(out / "report.html", made.encode("utf-8", "backslashreplace"))


def left_out(out: pathlib.Path) -> dict[str, str]:
    """The tasks that could not be judged, each with the reason."""
    path = pathlib.Path(out) / LEFT_OUT
    return parsed(path.read_bytes(), path) if path.exists() else {}


def put_left_out(out: pathlib.Path, more: Mapping[str, str]) -> None:
    """Keep for the report which tasks could not be judged; those that since were, go."""
    known = {**left_out(out), **more}
    known = {n: w for n, w in known.items() if not (out / n / "scores.json").exists()}
    if known:
        files.put(out / LEFT_OUT, (json.dumps(known, indent=1) + "\n").encode())
    else:
        (out / LEFT_OUT).unlink(missing_ok=True)


# The tables


def score_rows(runs) -> Iterator[tuple]:
    """Rows of the table of scores: its head first."""
    yield (
        *("task", "convention", "model", "metric", "solved", "percent"),
        *("95 % interval", "CodeGemma's report"),
    )
    for run in runs:
        for metric, score in run["scores"].items():
            theirs = _theirs(run, metric)
            low, high = score["interval"]
            yield (
                run["task"],
                run["convention"],
                asked(run["preset"], _question(run).get("answers")),
                metric,
                f"{score['right']:g}/{score['of']}",
                f"{score['percent']:.1f}",
                f"{low:.1f} to {high:.1f}",
                "-" if theirs is None else f"{theirs:.1f}",
            )


def _theirs(run, metric):
    """The score of CodeGemma's report beside this one; None where there is none."""
    single = metric in ("pass@1", "accuracy")
    return paper.beside(paper.SCORES, run) if single else None


def asked(preset: str | None, said: str | None) -> str:
    """Who answered: a model, or what `answers.describe` says of other answers."""
    if preset is not None:
        return preset
    if said in answers.OWN:
        return f"{said} answers"
    return f"answers of {visible(said.rpartition(' ')[0]) if said else 'a file'}"


def speed_rows(runs) -> Iterator[tuple]:
    """Rows of the table of speed and of stopping: its head first."""
    yield (
        *("task", "batch", "seconds", "seconds in CodeGemma's report", "ms a request"),
        *("ms a token", "tokens a second", "stopped by itself", "prompts cut to fit"),
    )
    for run in runs:
        speed = run["speed"]
        if "ms_per_request" not in speed:
            continue
        theirs = paper.beside(paper.SECONDS, run)
        stopped = run.get("stop_rate")
        yield (
            run["task"],
            _question(run)["batch_size"],
            f"{speed['seconds']:,.1f}",
            "-" if theirs is None else f"{theirs:,}",
            f"{speed['ms_per_request']:,.1f}",
            speed.get("ms_per_token", "-"),
            speed.get("tokens_per_second", "-"),
            "-" if stopped is None else f"{100 * stopped:.1f} %",
            run.get("truncated_prompts", "-"),
        )


def _question(run):
    path = run["folder"] / "question.json"
    return parsed(path.read_bytes(), path)


def reason_rows(runs) -> Iterator[tuple]:
    """Rows of the table of why samples failed: its head first."""
    yield ("task", "reason", "samples")
    for run in runs:
        for reason, number in run["reasons"].items():
            if reason != "passed":
                yield run["task"], visible(reason), number


def remarks(run) -> Iterator[str]:
    """What one must know to compare a score, in sentences."""
    question = _question(run)
    yield from _part(run, question)
    yield from run["notes"]
    figure = paper.of(paper.SCORES, run["task"], run["preset"])
    if figure is not None and run["problems"] != paper.SIZES[run["task"]]:
        yield (
            f"CodeGemma's report gives {figure:.1f} % of {paper.SIZES[run['task']]:,} "
            "problems, which are not the same ones."
        )
    drawn = (
        "Greedy, one sample a problem."
        if not question["temperature"]
        else f"{question['samples']} samples a problem at temperature "
        f"{question['temperature']:g}, top-p {question['top_p']:g}, top-k "
        f"{question['top_k']}, seed {question['seed']}."
    )
    if question["preset"] is None:
        number = "one sample" if run["samples"] == 1 else f"{run['samples']} samples"
        yield (
            "No model was asked; judged were the answers "
            f"{visible(question['answers'])}, {number} a problem."
        )
    else:
        yield drawn
    if run.get("truncated_prompts"):
        yield (
            f"{run['truncated_prompts']} prompts did not fit into the model's context of "
            f"{question['context']} tokens and were cut."
        )


def _part(run, question):
    """That it is a part of the benchmark, if it is."""
    whole = run["of_the_benchmark"]
    held = run.get("of_the_data", whole)
    if run["problems"] < held:
        number = f"{run['problems']} of {held:,} problems"
        which = (
            f"{number}, chosen at random with the seed {question['seed']},"
            if question.get("shuffle")
            else f"the first {number}"
        )
        yield f"Only {which} were asked, so this is no score of the benchmark."
    if held < whole:
        yield (
            f"The data hold {held:,} of the benchmark's {whole:,} problems, so this is no "
            "score of the benchmark."
        )


def machines(runs) -> list[str]:
    """On what and with what the runs were made, a line for each kind."""
    lines = []
    for run in runs:
        speed = run["speed"]
        if speed.get("versions"):
            versions = ", ".join(f"{k} {v}" for k, v in speed["versions"].items())
            devices = " and ".join(speed["devices"])
            lines.append(
                f"{devices}, {speed['dtype']}, {_question(run)['backend']}: {versions}; "
                f"{speed['date'][:10]}"
            )
    return list(dict.fromkeys(lines))


# Markdown


def markdown(runs, missing: Mapping[str, str] | None = None) -> str:
    """The report without pictures. What stands before its first section is a summary."""
    parts = ["# Evaluation", "", *_table(score_rows(runs)), ""]
    parts += ["## How it was asked", ""]
    for run in runs:
        said = " ".join(remarks(run))
        parts.append(f"* **{run['task']}** ({run['convention']}). {said}")
    parts += [
        f"* **{name}** was left out. {why}" for name, why in (missing or {}).items()
    ]
    for title, rows in (
        ("Speed and stopping", speed_rows(runs)),
        ("Why samples failed", reason_rows(runs)),
    ):
        table = list(_table(rows))
        if len(table) > 2:
            parts += ["", f"## {title}", "", *table]
    for title, said in (
        ("Compared with another run", comparison_lines(runs)),
        ("What was trained on", contamination_lines(runs)),
    ):
        if said := list(said):
            parts += ["", f"## {title}", "", *(f"* {line}" for line in said)]
    parts += ["", "## Machine", "", *(f"* {line}" for line in machines(runs)), ""]
    return "\n".join(parts)


def _table(rows):
    head, *body = rows
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in body:
        yield "| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |"


def comparison_lines(runs) -> Iterator[str]:
    """The paired tests, in sentences."""
    for run in runs:
        path = run["folder"] / "comparison.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text("utf-8"))
        theirs = asked(found["preset"], found.get("answers"))
        other = f"{theirs} ({found['convention']})"
        sure = "more than chance" if found["p_value"] < 0.05 else "no more than chance"
        yield (
            f"{run['task']}: {found['only_first']} problems were solved by this run only, "
            f"{found['only_second']} by {visible(other)} only, {found['both']} by both, "
            f"{found['neither']} by neither: {sure} would give (McNemar's exact test, "
            f"p = {found['p_value']:.3g})."
        )


def contamination_lines(runs) -> Iterator[str]:
    """What was found of the benchmarks in what the model was trained on."""
    checked = any((run["folder"] / "contamination.json").exists() for run in runs)
    for run in runs:
        path = run["folder"] / "contamination.json"
        if not path.exists():
            if checked:
                yield f"{run['task']}: not checked."
            continue
        found = json.loads(path.read_text("utf-8"))
        if found["problems"] is None:
            yield f"{run['task']}: not checked, for it has no text to look for."
            continue
        without = found["without"]
        score = (
            "no problem is left"
            if without is None
            else f"without them the score is {without['right']:g}/{without['of']} = "
            f"{without['percent']:.1f} %"
        )
        yield (
            f"{run['task']}: {len(found['problems'])} of {run['problems']} problems "
            f"stand in {found['documents']:,} documents of "
            f"{', '.join(map(visible, found['sources']))}; {score}."
        )
    if not checked:
        yield (
            "Not checked. `--trained-on SOURCE` looks for every problem in the files "
            "that the model was trained on."
        )


# The page

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>
<meta name="viewport" content="width=device-width">
<style>
body{font:15px/1.5 sans-serif;max-width:60em;margin:1em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}
td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}
pre{background:#f5f5f5;padding:.6em;overflow:auto}.wide{overflow-x:auto}
</style></head><body><h1>Evaluation</h1>
"""


def page(runs, missing: Mapping[str, str] | None = None) -> str:
    """The report as one HTML page with pictures."""
    parts = [_HEAD, *_html_table(score_rows(runs))]
    bars = [
        (
            f"{run['task']} {metric}",
            score["percent"],
            tuple(score["interval"]),
            _theirs(run, metric),
        )
        for run in runs
        for metric, score in run["scores"].items()
    ]
    if bars:
        parts += [_picture(pictures.score_bars(bars))]
    for run in runs:
        parts += [f"<h2>{_text(run['task'])}</h2>"]
        parts += [f"<p>{_text(' '.join(remarks(run)))}</p>", *_details(run)]
    for name, why in (missing or {}).items():
        parts += [f"<h2>{_text(name)}</h2><p>This task was left out. {_text(why)}</p>"]
    for title, rows in (
        ("Speed and stopping", speed_rows(runs)),
        ("Why samples failed", reason_rows(runs)),
    ):
        parts += [f"<h2>{title}</h2>", *_html_table(rows)]
    for title, said in (
        ("Compared with another run", comparison_lines(runs)),
        ("What was trained on", contamination_lines(runs)),
        ("Machine", machines(runs)),
    ):
        if said := list(said):
            items = "".join(f"<li>{_text(line)}" for line in said)
            parts += [f"<h2>{title}</h2><ul>{items}</ul>"]
    return "\n".join([*parts, "</body></html>", ""])


def _details(run):
    """Pictures of a run and some of its failures."""
    samples = summary.lines(run["folder"] / "samples.jsonl")
    verdicts = {
        (v["task_id"], v["index"]): v
        for v in summary.lines(run["folder"] / "verdicts.jsonl")
    }
    shares = {}
    for (problem, _), verdict in sorted(verdicts.items(), key=_natural):
        shares.setdefault(problem, []).append(verdict["passed"])
    yield "<p>Every problem by its name, row by row; green is solved:</p>"
    yield _picture(pictures.grid([sum(v) / len(v) for v in shares.values()]))
    passed = [verdicts[s["task_id"], s["index"]]["passed"] for s in samples]
    for key, label in (
        ("prompt_tokens", "tokens of the prompt"),
        ("new_tokens", "tokens of the answer"),
    ):
        lengths = [s[key] for s in samples if key in s]
        if len(lengths) == len(samples):
            yield _picture(pictures.success_by_length(lengths, passed, label))
    failed = [s for s, right in zip(samples, passed, strict=True) if not right]
    if failed:
        yield f"<h3>Failures ({min(len(failed), EXAMPLES)} of {len(failed):,})</h3>"
    # Spread over the run: the first ones are all of one kind.
    step = max(1, len(failed) // EXAMPLES)
    for record in failed[::step][:EXAMPLES]:
        reason = verdicts[record["task_id"], record["index"]]["reason"]
        yield (
            f"<details><summary>{_text(record['task_id'])}: {_text(reason)}</summary>"
            f"<p>The answer:</p><pre>{_text(record.get('completion', ''))}</pre>"
        )
        if "solution" in record:
            yield f"<p>In place:</p><pre>{_text(record['solution'])}</pre>"
        if "log_likelihoods" in record:
            yield f"<p>Log-likelihoods: {_text(record['log_likelihoods'])}</p>"
        yield "</details>"


def _natural(item):
    """So that problem 2 comes before problem 10."""
    (problem, index), _ = item
    parts = re.split(r"(\d+)", problem)
    return [int(p) if p.isdigit() else p for p in parts], index


def visible(text) -> str:
    """Text without characters that would drive a terminal or turn its direction."""
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], str(text))


def _text(value):
    text = str(value)
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]}\n[...]\n{text[-SHOWN // 2 :]}"
    return html.escape(visible(text))


def _picture(svg):
    return f"<div class='wide'>{svg}</div>"


def _html_table(rows):
    head, *body = rows
    yield "<div class='wide'><table><tr>"
    yield from (f"<th>{_text(name)}" for name in head)
    for row in body:
        yield "<tr>" + "".join(f"<td>{_text(cell)}" for cell in row)
    yield "</table></div>"
