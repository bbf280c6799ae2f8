"""What an administrator may write, and what a page may choose."""

import pytest
from traitlets import TraitError
from traitlets.config import Config

from codegemma_keras.jupyter.config import CodeGemma
from codegemma_keras.jupyter.models import Models
from codegemma_keras.server.settings import DEFAULT_PRESET


def config(**values):
    return CodeGemma(config=Config({"CodeGemma": values}))


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ({}, [DEFAULT_PRESET]),
        ({"preset": "a", "presets": ["b", "a"]}, ["a", "b"]),
        ({"server": "http://h:1"}, ["http://h:1"]),
        ({"server": "https://h/x", "preset": "a"}, ["https://h/x", "a"]),
        ({"server": "http://[::1]:8012", "presets": ["b"]}, ["http://[::1]:8012", "b"]),
    ],
)
def test_what_is_offered(values, offered):
    assert config(**values).offered() == offered


@pytest.mark.parametrize(
    "server",
    [
        *("127.0.0.1:8012", "ftp://h", "http://", "file:///etc/passwd", "http://h:0"),
        *("http://u:p@h", "http://h/?a=b", "http://h#x", "http://h:99999"),
    ],
)
def test_a_server_that_is_none(server):
    with pytest.raises(ValueError, match=r"c\.CodeGemma\.server is .*Give an address"):
        config(server=server).offered()


def test_a_value_of_another_kind_is_named():
    with pytest.raises(TraitError, match="'presets' trait of a CodeGemma"):
        config(presets=3)


def test_the_key(tmp_path):
    file = tmp_path / "key"
    file.write_text("secret\n")
    assert config(server="http://h", server_key_file=str(file)).key() == "secret"
    assert config().key() is None
    file.write_text("a\nb\n")
    with pytest.raises(ValueError, match="must hold one line"):
        config(server_key_file=str(file)).key()
    with pytest.raises(ValueError, match=r"c\.CodeGemma\.server is not"):
        config(server_key_file=str(file)).offered()


@pytest.mark.parametrize("name", ["/etc", "http://169.254.169.254", "../a", "A"])
def test_a_page_chooses_only_what_is_offered(name):
    models = Models(["a", "http://h"], None)
    assert models.choice(None) == models.choice("") == models.choice("a") == "a"
    with pytest.raises(ValueError, match="only a, http://h"):
        models.choice(name)
