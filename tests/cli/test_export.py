"""`codegemma export`: presets and adapters from their files, and what it refuses."""

import gguf
import pytest
import transformers

from codegemma_keras import CodeGemmaBackbone, lora
from codegemma_keras.cli.commands import main
from codegemma_keras.formats import peft
from tests import tiny_models

PRESET = "code_gemma_tiny_py"


def test_a_preset(tmp_path, capsys):
    assert main(["export", PRESET, str(tmp_path / "folder")]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    loaded = CodeGemmaBackbone.from_preset(tmp_path / "folder")
    expected = CodeGemmaBackbone.from_preset(PRESET)
    tiny_models.assert_same_weights(loaded, expected)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "folder")
    assert str(config.dtype) == "torch.float16"
    card = (tmp_path / "folder" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "license: apache-2.0" in card
    assert "21.8 M tokens" in card  # of its own card

    out = str(tmp_path / "model.gguf")
    options = ["--format", "gguf", "--quantization", "q8_0"]
    assert main(["export", PRESET, out, *options]) == 0
    fields = gguf.GGUFReader(out).fields
    assert fields["general.name"].contents() == PRESET
    assert fields["gemma.context_length"].contents() == 512
    assert main(["export", PRESET, out, *options]) == 2
    assert "not overwritten" in capsys.readouterr().err


def test_an_adapter(tmp_path, capsys):
    backbone = tiny_models.our_backbone()
    lora.add(backbone, rank=2)
    lora.save(backbone, tmp_path / "adapter")
    source, out = str(tmp_path / "adapter"), str(tmp_path / "adapter.gguf")
    assert main(["export", source, out, "--format", "gguf"]) == 0
    assert len(gguf.GGUFReader(out).tensors) == 2 * 7 * backbone.num_layers
    out = str(tmp_path / "copy")
    options = ["--format", "peft", "--base-model", "google/codegemma-2b"]
    assert main(["export", source, out, *options]) == 0
    assert peft.read(out).scales == peft.read(source).scales
    capsys.readouterr()
    assert main(["export", source, str(tmp_path / "x")]) == 2
    assert "--format peft and gguf write" in capsys.readouterr().err
    options = ["--format", "gguf", "--quantization", "Q8_0"]
    assert main(["export", source, str(tmp_path / "x.gguf"), *options]) == 2
    assert "is an option for models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["code_gemma_tiny_pi", "x"], "Did you mean 'code_gemma_tiny_py'"),
        ([PRESET, "x", "--format", "peft"], "is a whole model"),
        ([PRESET, "x", "--adapter", "/nowhere"], "holds no adapter_config.json"),
        ([PRESET, "x", "--quantization", "Q4_0"], "one of float32, bfloat16, float16"),
        ([PRESET, "x.gguf", "--format", "gguf", "--quantization", "Q3"], "written are"),
    ],
)
def test_bad_requests(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
