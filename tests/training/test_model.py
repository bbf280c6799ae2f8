"""How the model of a run is built."""

import pytest

from codegemma_keras.training import model
from tests.training.small_runs import settings_of


def test_dtypes_by_the_device():
    """Where there is no bfloat16, float16; what trains stays float32."""
    for lora_rank, half, dtype in [
        (0, None, "float32"),
        (8, None, "float32"),
        (0, "bfloat16", "mixed_bfloat16"),
        (8, "bfloat16", "bfloat16"),
        (0, "float16", "mixed_float16"),
    ]:
        config = settings_of("unused", lora_rank=lora_rank, dtype=None)
        found = model.with_dtype(config, lambda half=half: half)
        assert found.dtype == dtype
        assert "float32" in model.described(found, "cpu")


@pytest.mark.parametrize(
    ("rank", "kind", "use"),
    [
        (0, "preset", "--preset '{}/my run/preset'"),
        (8, "adapter", "--preset code_gemma_tiny_py --adapter '{}/my run/adapter'"),
    ],
)
def test_the_end_of_a_run_says_how_its_result_is_used(
    rank, kind, use, tmp_path, monkeypatch, capsys
):
    """The options are those of the command line, and quoted for a shell."""
    config = settings_of(
        tmp_path / "my run", lora_rank=rank, preset="code_gemma_tiny_py"
    )
    monkeypatch.setattr(
        model, "save_result", lambda lm, config, name: tmp_path / "my run" / kind
    )
    model.save_and_say(None, config, "adapter")
    assert (
        capsys.readouterr()
        .out.strip()
        .endswith(f"; use it with {use.format(tmp_path)}")
    )
