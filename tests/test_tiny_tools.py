"""The programs in tools/ that train the embedded preset further."""

import importlib
import itertools
import pathlib
import sys
import zipfile

import numpy as np
import pytest

from codegemma_keras.data.document import Report
from codegemma_keras.data.read import sources

TOOLS = pathlib.Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def tools():
    """The modules by their names."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(TOOLS))
    names = ("smollm2_adapter", "tiny_sources", "tiny_train")
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("smollm2_", "tiny_")):
            del sys.modules[name]


def test_a_wheel_as_an_archive_with_its_licence(tools, tmp_path):
    wheel = tmp_path / "mine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "mine/numbers.py", "def double(value):\n    return 2 * value\n"
        )
        archive.writestr("mine/data.bin", b"\0")
        archive.writestr("mine-1.0.dist-info/METADATA", "License-Expression: MIT\n")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: name for name in archive.namelist()}
        for name in ("mine-1.0", "rich-15.0", "httpx2-2.0"):  # Two are for scoring.
            tools["tiny_sources"].keep(tmp_path, name, files, archive.read)
    assert [file.name for file in tmp_path.glob("*.zip")] == ["mine-1.0.zip"]
    found = {
        document.path: document.licence
        for document in sources.read_source(tmp_path / "mine-1.0.zip", Report())
    }
    assert found["mine/numbers.py"] == "MIT"
    assert "mine/data.bin" not in found


def test_shares_of_rows(tools):
    adapter = tools["smollm2_adapter"]
    shares = adapter.shares_of("alone=0.7,code=0.3")
    assert (shares["alone"], shares["code"], shares["chats"]) == (0.7, 0.3, 0)
    for wrong in ("alone=0.5", "alone=0.5,songs=0.5"):
        with pytest.raises(adapter.argparse.ArgumentTypeError):
            adapter.shares_of(wrong)
    options = ["rows", "--texts", "texts", "--line-share", "0.9", "--path-share", "1"]
    settings = adapter.fim_settings(adapter.parsed(options))["alone"]
    assert (settings.line_share, settings.path_share) == (0.9, 1)
    assert sum(settings.shares().values()) == pytest.approx(1)


def test_the_last_rows_come_when_little_time_is_left(tools, tmp_path):
    train, adapter = tools["tiny_train"], tools["smollm2_adapter"]

    def rows(name, token):
        ids = np.full((2, 4), token, "uint16")
        arrays = dict.fromkeys(
            ("token_ids", "targets", "positions", "segment_ids"), ids
        )
        (tmp_path / name).mkdir()
        file = tmp_path / name / "rows_00_00.npz"
        np.savez(file, weights=ids.astype("float16"), **arrays)
        return adapter.load_rows([file])

    class Clock:
        def __init__(self):
            self.shares = iter((0.9, 0.6, 0.4, 0.1))

        def left(self):
            return next(self.shares)

    first, _ = rows("first", 5), rows("last", 6)
    options = ["run", "--rows", str(tmp_path / "first"), "--tokens", "8"]
    options += ["--last-rows", str(tmp_path / "last"), "--last", "0.5", "--batch", "1"]
    batches = train.batches(train.parsed(options), first, 0, Clock())
    seen = [int(batch[1].max()) for batch in itertools.islice(batches, 4)]
    assert seen == [5, 5, 6, 6]


def test_the_rate_falls_by_the_clock(tools, monkeypatch):
    train = tools["tiny_train"]
    now = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    clock = train.Clock(peak=0.1, warmup_steps=10, decay=0.5, minutes=10)
    rates = []
    for minute in (0, 4, 7.5, 10, 12):
        now[0] = 60 * minute
        clock.left()
        rates.append(float(clock(100)))
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0, 0], atol=1e-6)
    now[0] = 0
    clock.left()
    assert float(clock(4)) == pytest.approx(0.05)
