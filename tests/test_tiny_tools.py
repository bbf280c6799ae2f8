"""The programs in tools/ that train the embedded preset further."""

import importlib
import pathlib
import sys
import zipfile

import pytest

from codegemma_keras.data.document import Report
from codegemma_keras.data.read import sources

TOOLS = pathlib.Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def tools():
    """The modules by their names."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(TOOLS))
    names = ("smollm2_adapter", "tiny_sources")
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
