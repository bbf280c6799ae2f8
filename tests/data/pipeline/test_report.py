"""The report: what went wrong first, a line per source, pictures of any repository."""

import xml.etree.ElementTree

import pytest

from codegemma_keras import fim
from codegemma_keras.data.document import Report
from codegemma_keras.data.pipeline import pictures, report


def about(counts, by_source=None):
    made = Report()
    for step, reason, number in counts:
        made.count(step, reason, number, size=number * 10, name=f"r:{reason}\x1b[2J")
    rows = made.to_json()
    return {
        "report": rows, "by_source": by_source or {"r": rows}, "sources": ["r"],
        "rows": 3, "length": 128, "tokens": 300, "padding": 0.1,
    }  # fmt: skip


KEPT = [("language", "python", 7), ("fim", "plain", 9), ("length", "0000128", 7),
        ("licence", "MIT", 9), ("read", "in", 9), ("filter", "minified", 2)]  # fmt: skip
MANIFEST = {
    "date": "2026-11-26", "version": "1", "tokenizer": "ab", "command": ["codegemma"],
    "sources": {"r": {"files": 1, "bytes": 2, "path": "/r"}}, "settings": {"length": 128},
}  # fmt: skip


def test_what_went_wrong_comes_first():
    lost = about([*KEPT, ("source", "damaged header", 2), ("source", "link", 5)])
    (said,) = report.problems(lost)
    assert said.startswith("damaged header: 2 of 20 bytes")
    text = report.markdown(lost, None)
    assert text.index("damaged header") < text.index("documents read")
    page = report.html_page(lost, None, manifest=MANIFEST)
    assert page.index("What went wrong") < page.index("documents read")
    assert "\x1b" not in page + text
    whole = about(KEPT)
    assert report.problems(whole) == []
    assert "Every source was read whole" in report.html_page(
        whole, None, manifest=MANIFEST
    )


def test_a_source_of_which_nothing_is_left_names_the_option():
    rows = about([("filter", "licence unknown", 5), ("read", "in", 5)])["report"]
    (said,) = report.problems(about(KEPT, {"lib": rows}))
    assert "Nothing is left of the source lib: licence unknown 5" in said
    assert "--any-licence" in said


def test_the_line_of_a_source_adds_up():
    rows = about([*KEPT, ("dedup", "near duplicate", 1), ("source", "link", 1)])[
        "report"
    ]
    line = report.source_line(rows)
    assert (line["files"], line["kept"]) == (11, 7)
    assert sum(number for _, number in line["reasons"]) == 4
    assert line["licences"] == ["MIT"]


def repository(files, per_folder):
    paths = [f"src/p{i // per_folder:03d}/m{i}.py" for i in range(files)]
    kept = [[paths[i], paths[i // 2]] for i in range(1, files)]
    return {"repo": "r", "paths": paths, "kept": kept, "removed": [kept[-1][::-1]],
            "tests": {paths[-1]: paths[0]}, "covered": files}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "per_folder", "unit"),
    [(3, 3, "files"), (40, 9, "files"), (400, 20, "folders"), (3000, 10, "folders")],
)
def test_a_graph_for_a_repository_of_any_size(files, per_folder, unit):
    drawn, said = pictures.graph(repository(files, per_folder))
    assert said == unit
    assert drawn == pictures.graph(repository(files, per_folder))[0]
    root = xml.etree.ElementTree.fromstring(drawn)
    texts = [
        "".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("text")
    ]
    assert 0 < len(texts) <= pictures.MAX_NODES
    assert any("p000" in text for text in texts)


def test_the_funnel_shows_its_numbers():
    drawn = pictures.funnel([("source", 10), ("filter", 300)], 4321)
    for text in ("4,631", "4,621", "4,321", "300", "10"):
        assert text in drawn


def test_the_page_shows_pairs_sample_and_settings():
    pairs = [{"similarity": 0.41, "name": "r:<b>.py", "kept": "r:c.py"}]
    sample = [
        fim.START,
        "a.py\n",
        fim.PREFIX,
        "x<\n",
        fim.SUFFIX,
        "",
        fim.MIDDLE,
        "y\x1b",
    ]
    page = report.html_page(
        about(KEPT), repository(5, 2), manifest=MANIFEST, pairs=pairs, sample=sample
    )
    for text in (
        "0.410",
        "r:&lt;b&gt;.py",
        "x&lt;",
        "y\\x1b",
        "/r (1 files",
        "2026-11-26",
    ):
        assert text in page
    assert "width=device-width" in page
    # A phone shows each row as lines with names; both files of a pair are seen.
    assert "data-name='similarity'>0.410" in page
    assert "r:&lt;b&gt;.py<br>r:c.py" in page


def test_a_long_part_of_the_sample_leaves_room_for_its_middle():
    sample = [fim.PREFIX, "first" + "x" * 99_000 + "last", fim.MIDDLE, "wanted"]
    page = report.html_page(about(KEPT), None, manifest=MANIFEST, sample=sample)
    for text in ("first", "last", "characters ...]", "wanted"):
        assert text in page
    assert len(page) < 40_000


def test_settings_are_written_for_a_person():
    """A setting that holds others was shown as Python writes a dict."""
    settings = {
        "fim": {"rate": 1.0, "seed": 1},
        "languages": ["go", "<b>"],
        "licences": None,
        "benchmarks": [],
        "own": True,
    }
    made = MANIFEST | {"settings": settings}
    page = report.html_page(about(KEPT), None, manifest=made)
    for cell in (
        "<th>fim<td>rate: 1.0<br>seed: 1",
        "<th>languages<td>go, &lt;b&gt;",
        "<th>licences<td>not set",
        "<th>benchmarks<td>none",
        "<th>own<td>yes",
    ):
        assert cell in page
    assert "{&#x27;" not in page
