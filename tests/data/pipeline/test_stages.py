"""Stages: the graph sees the whole tree, and what cannot fit a row is counted."""

import json

import pytest

from codegemma_keras.data.document import Document, Report
from codegemma_keras.data.pipeline import shards, stages
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.rows import storage
from codegemma_keras.tokenizer.codec import PlainCodec
from tests.small_vocabulary import small_vocabulary

SETTINGS = Settings(length=128, licences=None, languages=("python",))


def document(path, text):
    return Document(text, path, "r", "MIT", "python")


BODY = "".join(f"def {{0}}_{i}(x):\n    return x + {i}\n" for i in range(4))
TREE = [
    document("pkg/__init__.py", ""),
    document("pkg/a.py", "from pkg import made\n" + BODY.format("a")),
    document("pkg/made.py", "# @generated\nfrom pkg import z\n" + BODY.format("made")),
    document("pkg/z.py", BODY.format("z")),
    document("other/pkg.py", "import pkg\n" + BODY.format("other")),
]


def test_clean_gives_what_is_dropped_as_it_came():
    report = Report()
    found = list(stages.clean(TREE, SETTINGS, report))
    assert [d.path for d, _ in found] == [d.path for d in TREE]
    assert [kept for _, kept in found] == [False, True, False, True, True]
    assert report.number("filter", "nearly empty") == 1
    assert report.number("filter", "generated") == 1


@pytest.mark.parametrize("place", [0, 2, 4])
def test_nothing_is_lost_wherever_the_dropped_ones_stand(place):
    tree = [d for d in TREE if d.path in ("pkg/a.py", "pkg/z.py")]
    tree[place // 2 : place // 2] = [TREE[0], TREE[2]]
    found = list(stages.clean(tree, SETTINGS, Report()))
    assert [d.path for d, _ in found] == [d.path for d in tree]


def test_files_that_are_dropped_still_decide_what_imports_mean():
    """a needs made, made needs z; made is generated, so it goes, and z stays before a.

    `import pkg` means the empty `__init__.py`: without it, it was taken for nothing or
    for another file.
    """
    kept = {"pkg/a.py", "pkg/z.py", "other/pkg.py"}
    facts = [stages.graph_facts(d, d.path in kept, SETTINGS) for d in TREE]
    found = stages.order_repository(facts, kept)
    assert set(found.paths) == kept
    assert found.paths.index("pkg/z.py") < found.paths.index("pkg/a.py")
    assert all(e.importer in kept and e.imported in kept for e in found.kept)
    assert not [e for e in found.kept if e.importer == "other/pkg.py"]


def test_a_path_that_fills_the_row_costs_its_document():
    codec = PlainCodec(small_vocabulary())
    documents = [document("d/" * 400 + "a.py", BODY), document("b.py", BODY)]
    report = Report()
    found = list(stages.chunk_documents(documents, codec, SETTINGS, report))
    assert {path for chunk in found for path in chunk.paths} == {"b.py"}
    assert report.number("source", "path fills the row") == 1


def test_a_disk_that_fills_while_shards_are_written(tmp_path, monkeypatch):
    """array_record's own error becomes that of the system."""

    def refuse(path, rows):
        raise RuntimeError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(storage, "write_shard", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        shards.write_shard(tmp_path, "x", tmp_path, [], [])
    assert caught.value.errno == 28


def test_rows_say_what_they_hold(tmp_path):
    folder = tmp_path / "0"
    folder.mkdir()
    chunks = [
        {"repo": "r", "length": 3, "hash": "00", "paths": ["a.py"]},
        {"repo": "s", "length": 2, "hash": "01", "paths": ["b.py", "c.py"]},
    ]
    (folder / "chunks.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chunks))
    (folder / "tokens.bin").write_bytes(bytes(4 * 5))
    plan = shards.plan_rows(tmp_path, ["0"], SETTINGS)
    rows = shards.shard_plan(plan, SETTINGS, 0)
    assert list(shards._contents(tmp_path, ["0"], rows)) == [
        [{"repo": "r", "paths": ["a.py"]}, {"repo": "s", "paths": ["b.py", "c.py"]}]
    ]
