"""The command line, with a tiny random model saved as a preset folder."""

import io
import json

import keras
import numpy as np
import pytest

from codegemma_keras.cli import complete as cli
from codegemma_keras.cli import main
from tests.small_vocabulary import small_vocabulary

FILE = "def mean(values):\n    total = \n    return total / len(values)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with `stats.py` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stats.py").write_text(FILE)
    return tmp_path


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    """A folder with a random model of a few thousand parameters and a tokenizer."""
    from codegemma_keras import (
        CodeGemmaBackbone,
        CodeGemmaCausalLM,
        CodeGemmaCausalLMPreprocessor,
        CodeGemmaTokenizer,
    )

    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("preset")
    tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
    backbone = CodeGemmaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=32,
        head_dim=8,
    )
    preprocessor = CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=128)
    CodeGemmaCausalLM(backbone, preprocessor).save_to_preset(str(folder))
    return str(folder)


def run(capsys, *args):
    """Exit code, stdout, stderr of the command in this process."""
    try:
        code = main([str(arg) for arg in args])
    except SystemExit as exit_:  # of a malformed option
        code = exit_.code
    out, err = capsys.readouterr()
    return code, out, err


# Completing


@pytest.mark.parametrize(("option", "until"), [([], "block"), (["none"], None)])
def test_json_is_what_the_library_gives(folder, preset, capsys, option, until):
    from codegemma_keras import CodeGemmaCausalLM

    (folder / "table.py").write_text("def rows():\n    return []\n")
    code, out, _ = run(
        capsys,
        *("complete", "stats.py", "--line", 2, "--preset", preset, "--json"),
        *("--max-new-tokens", 8, "--context", "table.py"),
        *(("--until", *option) if option else ()),
    )
    assert code == 0
    answer = json.loads(out)
    cursor = FILE.index("\n    return")
    expected = CodeGemmaCausalLM.from_preset(preset).complete(
        FILE[:cursor],
        FILE[cursor:],
        path="stats.py",
        context=[("table.py", "def rows():\n    return []\n")],
        max_new_tokens=8,
        until=until,
    )
    assert answer.pop("seconds") > 0
    assert answer.pop("load_seconds") > 0
    assert answer == {
        "completion": expected.text,
        "stop_reason": expected.stop_reason,
        "tokens": len(expected.token_ids),
        "prompt_tokens": expected.prompt_tokens,
        "prefix_length": cursor,
        "suffix_length": len(FILE) - cursor,
        "prefix_used": len(expected.prefix),
        "suffix_used": len(expected.suffix),
    }


def test_compiled_programs_are_kept_for_the_next_process(
    folder, preset, capsys, monkeypatch
):
    from codegemma_keras import CodeGemmaCausalLM
    from codegemma_keras.decoding import compilation

    called, load = [], CodeGemmaCausalLM.from_preset
    monkeypatch.setattr(
        compilation, "keep_compiled_in_cache", lambda: called.append("kept")
    )
    monkeypatch.setattr(
        CodeGemmaCausalLM,
        "from_preset",
        lambda *args: called.append("loaded") or load(*args),
    )
    code, _, _ = run(
        capsys,
        *("complete", "stats.py", "--line", 2, "--preset", preset),
        *("--max-new-tokens", 8),
    )
    assert code == 0
    assert called == ["kept", "loaded"]  # what loading compiles is kept, too


@pytest.fixture(scope="session")
def adapter(preset, tmp_path_factory):
    """A folder with an adapter of `preset` that changes what the model writes."""
    from codegemma_keras import CodeGemmaCausalLM, lora

    lm = CodeGemmaCausalLM.from_preset(preset)
    lora.add(lm, "mine", rank=2)
    for number, variable in enumerate(lm.trainable_variables):
        draw = np.random.default_rng(number).normal(0, 1, variable.shape)
        variable.assign(draw)
    folder = tmp_path_factory.mktemp("adapter")
    lora.save(lm, folder, "mine")
    return folder


def test_an_adapter_is_used(folder, preset, adapter, capsys):
    from codegemma_keras import CodeGemmaCausalLM, lora

    request = ["complete", "stats.py", "--line", 2, "--preset", preset, "--json"]
    request += ["--max-new-tokens", 8, "--until", "none"]
    _, plain, _ = run(capsys, *request)
    code, out, _ = run(capsys, *request, "--adapter", adapter)
    assert code == 0
    lm = CodeGemmaCausalLM.from_preset(preset)
    lora.load(lm, adapter)
    cursor = FILE.index("\n    return")
    expected = lm.complete(
        FILE[:cursor], FILE[cursor:], path="stats.py", max_new_tokens=8, tidy=True
    )
    assert json.loads(out)["completion"] == expected.text
    assert json.loads(plain)["completion"] != expected.text
    code, _, err = run(capsys, *request, "--adapter", folder)
    assert code == 2
    assert "adapter_config.json" in err


def test_seed_repeats_a_sample(folder, preset, capsys):
    request = ["complete", "stats.py", "--line", 2, "--preset", preset, "--json"]
    request += ["--max-new-tokens", 12, "--temperature", 2]

    def sample(seed):
        _, out, _ = run(capsys, *request, "--seed", seed)
        return json.loads(out)["completion"]

    first = sample(7)
    assert sample(7) == first
    assert sample(8) != first


def test_piped_output_is_the_file_with_the_completion(folder, preset, capsys):
    text = "\tx = 1\r\ny = \r\nz = 3"  # tabs, CRLF, no last newline
    (folder / "crlf.py").write_bytes(text.encode())
    request = ["complete", "crlf.py", "--line", 2, "--preset", preset]
    request += ["--max-new-tokens", 4]
    _, out, _ = run(capsys, *request, "--json")
    completion = json.loads(out)["completion"]
    code, out, _ = run(capsys, *request)
    assert code == 0
    assert out == f"\tx = 1\r\ny = {completion}\r\nz = 3\n"


def test_only_the_surroundings_are_printed(capsys):
    lines = [f"line {i}\n" for i in range(100)]
    cli._print_in_place("".join(lines[:50]) + "x = ", "5", "\n" + "".join(lines[50:]))
    out = capsys.readouterr().out
    n = cli.SURROUNDINGS
    expected = [*lines[50 - n : 50], "x = 5\n", *lines[50 : 50 + n]]
    assert out == "".join(expected)


def test_terminal_shows_the_completion_in_colour(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    cli._print_in_place("a = [1] # [red]\nb = ", "2", "\nc = 'ü\x1b[2J'\n")
    out = capsys.readouterr().out
    assert out == "a = [1] # [red]\nb = \x1b[1;32m2\x1b[0m\nc = 'ü␛[2J'\n"


def test_a_file_longer_than_the_context_is_cut_around_the_cursor(
    folder, preset, capsys
):
    (folder / "long.py").write_text("a = 1\n" * 500 + "b = \n" + "c = 3\n" * 500)
    code, out, _ = run(
        capsys,
        *("complete", "long.py", "--line", 501, "--preset", preset, "--json"),
        *("--max-new-tokens", 4),
    )
    assert code == 0
    answer = json.loads(out)
    assert answer["prefix_length"] == 3004
    assert 0 < answer["prefix_used"] < 500
    assert 0 < answer["suffix_used"] < 500


# Where the cursor is


@pytest.mark.parametrize(
    ("text", "line", "column", "expected"),
    [
        ("ab\ncd\n", 1, None, 2),
        ("ab\ncd\n", 2, 1, 3),
        ("ab\ncd\n", 2, 3, 5),
        ("ab\ncd\n", 3, None, 6),  # after the last newline
        ("ab\r\ncd", 1, None, 2),  # before \r\n
        ("ab\rcd", 2, 2, 4),
        ("a\x0cb\u2028c\nd", 2, 1, 6),  # only line ends end lines
        ("", 1, None, 0),
        ("é😀\n", 1, 3, 2),  # characters, not bytes
    ],
)
def test_cursor(text, line, column, expected):
    assert cli.find_cursor(text, line, column, "f") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("\n", ["\n", ""]),
        ("a\r\nb\rc\n\nd", ["a\r\n", "b\r", "c\n", "\n", "d"]),
        ("\r\n\r", ["\r\n", "\r", ""]),
    ],
)
def test_lines(text, expected):
    assert cli.split_lines(text) == expected


def test_path_shown_to_the_model(folder, tmp_path_factory):
    assert cli._repository_path("stats.py") == "stats.py"
    assert cli._repository_path(str(folder / "src" / "a.py")) == "src/a.py"
    elsewhere = tmp_path_factory.mktemp("home_of_somebody") / "b.py"
    assert cli._repository_path(str(elsewhere)) == "b.py"


# Bad input: one line that says what is wrong, exit code 2, before any loading


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["absent.py", "--line", "1"], "absent.py: no such file"),
        ([".", "--line", "1"], ". is a folder"),
        (["latin.py", "--line", "1"], "latin.py is not UTF-8 text (byte 3)"),
        (["stats.py", "--line", "0"], "--line 0 is outside stats.py, whose lines go"),
        (["stats.py", "--line", "5"], "from 1 to 4"),
        (["stats.py", "--line", "2", "--column", "0"], "--column 0 is outside line 2"),
        (["stats.py", "--line", "2", "--column", "14"], "from 1 to 13"),
        (["stats.py", "--line", "2", "--context", "absent.py"], "absent.py: no such"),
        (["stats.py", "--line", "2", "--temperature", "-1"], "temperature=-1.0 must"),
        (
            ["stats.py", "--line", "2", "--preset", "code_gema_2b_en"],
            "code_gemma_2b_en",
        ),
    ],
)
def test_bad_request_is_one_line(folder, capsys, args, message):
    (folder / "latin.py").write_bytes("caf\xe9\n".encode("latin-1"))
    code, out, err = run(capsys, "complete", *args)
    assert code == 2
    assert out == ""
    assert err.startswith("codegemma: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1"])
def test_max_new_tokens_is_a_positive_whole_number(folder, capsys, value):
    code, _, err = run(
        capsys, *("complete", "stats.py", "--line", 2, "--max-new-tokens", value)
    )
    assert code == 2
    assert f"--max-new-tokens {value} must be a whole number above 0" in err


def test_no_room_for_a_prompt(folder, preset, capsys):
    code, _, err = run(
        capsys,
        *("complete", "stats.py", "--line", 2, "--preset", preset),
        *("--max-new-tokens", 500),
    )
    assert code == 2
    assert "max_new_tokens=500" in err
    assert "128" in err
    assert err.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_says_what_is_waited_for(folder, preset, monkeypatch, capsys):
    """A log or a pipe gets the completion alone."""
    ask = ["complete", "stats.py", "--line", "2", "--preset", preset]
    ask += ["--max-new-tokens", "2"]
    monkeypatch.setenv("TERM", "xterm")
    for stderr, says in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stderr)
        assert main(ask) == 0
        assert ("programs are compiled" in stderr.getvalue()) == says
