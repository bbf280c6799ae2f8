"""How the model of a run is built."""

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
