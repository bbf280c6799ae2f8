"""The programs in tools/ that make the adapter of SmolLM2: sources, rows, a share of it."""

import importlib.util
import json
import lzma
import pathlib
import sys
import tarfile

import numpy as np
import pytest

from codegemma_keras import CodeGemmaTokenizer, fim
from codegemma_keras.formats import peft

TOOLS = pathlib.Path(__file__).parents[1] / "tools"
LICENCE = "[project]\nname = 'mine'\nlicense = 'MIT'\n"
CODE = '''\
def double(value):
    """Return twice the value that was given."""
    return 2 * value


def halve(value):
    if value % 2:
        raise ValueError(value)
    return value // 2
'''
HUMANEVAL = '''\
from typing import List


def has_close_elements(numbers: List[float], threshold: float) -> bool:
    """ Check if in given list of numbers, are any two numbers closer to each other than
    given threshold.
    """
    for idx, elem in enumerate(numbers):
        for idx2, elem2 in enumerate(numbers):
            if idx != idx2:
                distance = abs(elem - elem2)
                if distance < threshold:
                    return True

    return False
'''


@pytest.fixture(scope="module")
def tools():
    """The modules by their names."""
    loaded, path = {}, list(sys.path)
    for name in ("texts", "adapter", "keep", "train"):
        file = TOOLS / f"smollm2_{name}.py"
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        spec.loader.exec_module(module)
        loaded[name] = module
    yield loaded
    sys.path[:] = path
    for name in loaded:
        del sys.modules[f"smollm2_{name}"]


@pytest.fixture(scope="module")
def tokenizer():
    return CodeGemmaTokenizer.from_preset("code_gemma_tiny_py")


@pytest.fixture
def sdist(tmp_path):
    folder = tmp_path / "mine-1.0"
    files = {
        "pyproject.toml": LICENCE,
        "mine/numbers.py": CODE,
        "mine/copy.py": CODE,
        "mine/login.py": 'password = "Zk3vTqLw9XbGh2Rp"\nprint(password)\n' * 3,
        "mine/close.py": HUMANEVAL,
        "mine/tqdm.py": CODE.replace("double", "bar"),
        "mine/_vendor/rich/text.py": CODE.replace("double", "text"),
        "tests/test_numbers.py": CODE.replace("double", "test_double"),
        "docs/guide.md": "# Guide\n\nNumbers are doubled by `double`.\n" * 4,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with tarfile.open(tmp_path / "mine-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, "mine-1.0")
    return tmp_path / "mine-1.0.tar.gz"


def test_what_is_read_of_a_source(tools, sdist):
    lines, report = tools["texts"].texts_of(str(sdist), most=10_000)
    found = {json.loads(line)["path"]: json.loads(line)["text"] for line in lines}
    assert found.keys() == {
        *("mine/numbers.py", "mine/copy.py", "mine/login.py", "docs/guide.md")
    }
    assert "Zk3vTqLw9XbGh2Rp" not in found["mine/login.py"]
    assert report.number("texts", "held out") == 1
    assert report.number("texts", "test") == 1
    assert report.number("filter", "vendored") == 1
    assert report.number("decontaminate", "HumanEval") == 1
    fewer, _ = tools["texts"].texts_of(str(sdist), most=1)
    assert 0 < len(fewer) < len(lines)  # one folder, and whole


def test_what_the_model_is_scored_on_is_no_source(tools, monkeypatch, tmp_path):
    arguments = ["texts", str(tmp_path), "--sources", "runs/networkx-3.4.tar.gz"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ValueError, match=r"networkx-3\.4.*for scoring"):
        tools["texts"].main()
    assert not tools["texts"].held_out("networkit-11.0.tar.gz")


def test_rows_of_texts(tools, tokenizer, sdist, tmp_path, monkeypatch):
    adapter = tools["adapter"]
    lines, _ = tools["texts"].texts_of(str(sdist), most=10_000)
    with lzma.open(tmp_path / "texts.jsonl.xz", "wt") as file:
        file.writelines(line + "\n" for line in lines)
    (tmp_path / "chats.jsonl").write_text(
        json.dumps({"question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"})
    )
    arguments = [str(tmp_path / "rows"), "--texts", str(tmp_path / "texts.jsonl.xz")]
    arguments += ["--chats", str(tmp_path / "chats.jsonl"), "--length", "256"]
    arguments += ["--tokenizer", "code_gemma_tiny_py", "--tokens", "4000"]
    options = adapter.parsed([*arguments, "--passes", "2", "--workers", "1"])
    options.out.mkdir()
    adapter.work(options, 0)
    files = adapter.row_files(options.out)
    assert [file.name for file in files] == ["rows_00_00.npz", "rows_01_00.npz"]
    first, both = adapter.load_rows(files[:1]), adapter.load_rows(files)
    assert both.rows > first.rows
    ids, targets = both.inputs["token_ids"], both.targets
    # A target is the token that follows in the same segment, and padding has no weight.
    segments = both.inputs["segment_ids"]
    inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    np.testing.assert_array_equal(ids[:, 1:][inside], targets[:, :-1][inside])
    assert not both.weights[segments == 0].any()
    np.testing.assert_array_equal(both.inputs["padding_mask"], segments > 0)
    # Middles count whole, what is around them a quarter.
    middle = tokenizer.codec.control_ids[fim.MIDDLE]
    assert set(np.unique(both.weights)) == {0.0, 0.25, 1.0}
    assert (both.weights[(ids == middle) & (segments > 0)] == 1).all()
    made = json.loads((options.out / "rows_00_00.json").read_text())
    assert all(made[kind]["segments"] for kind in ("joined", "short", "text", "chats"))
    texts = ["".join(map(str, tokenizer.decode_parts(row.tolist()))) for row in ids]
    assert any("It is 2." in text for text in texts)
    assert any("double(value)" in text and "twice the value" in text for text in texts)


def test_new_rows_come_before_old_ones_again(tools, tmp_path):
    adapter, train = tools["adapter"], tools["train"]

    def add(name, token):
        ids = np.full((2, 4), token, "uint16")
        arrays = dict.fromkeys(
            ("token_ids", "targets", "positions", "segment_ids"), ids
        )
        np.savez(tmp_path / name, weights=ids.astype("float16"), **arrays)

    add("rows_00_00.npz", 5)
    options = adapter.argparse.Namespace(rows=tmp_path, batch=2)
    rows = adapter.load_rows(adapter.row_files(tmp_path))
    batches = train.following(options, rows, 0)
    seen = [int(next(batches)[1].max())]
    add("rows_01_00.npz", 6)
    seen += [int(next(batches)[1].max()) for _ in range(3)]
    assert seen[:2] == [5, 6]
    assert set(seen[2:]) <= {5, 6}  # nothing is new: all rows again
    with pytest.raises(ValueError, match=r"Run smollm2_adapter\.py first"):
        adapter.load_rows([])


def test_a_share_of_an_adapter(tools, tmp_path):
    rng = np.random.default_rng(0)
    path = "model.layers.1.mlp.up_proj"
    a, b = (rng.normal(size=s).astype("float32") for s in ((3, 48), (80, 3)))
    rows = rng.normal(size=(2, 48)).astype("float32")
    peft.write(
        tmp_path / "all", peft.Adapter({path: (a, b)}, {path: 2.0}, rows=([7, 9], rows))
    )
    size = tools["keep"].keep(tmp_path / "all", tmp_path / "half", 0.5)
    found = peft.read(tmp_path / "half")
    half_a, half_b = (m.astype("float32") for m in found.pairs[path])
    np.testing.assert_allclose(half_b @ half_a, 0.5 * b @ a, atol=1e-2)
    np.testing.assert_allclose(found.rows[1], rows, atol=2e-3)  # tokens stay whole
    assert found.scales[path] == 2.0
    assert found.pairs[path][0].dtype == "float16"
    assert size == (tmp_path / "half" / peft.WEIGHTS_FILE).stat().st_size
