"""What a step computes, and what devices can."""

import numpy as np
import pytest

from codegemma_keras.training import hardware
from tests.training.small_runs import SIZES, new_model


def test_flops_count_every_matrix_once():
    variables = new_model().trainable_variables
    matrices = sum(int(np.prod(v.shape)) for v in variables if len(v.shape) > 1)
    assert hardware.matrix_weights(SIZES) == matrices
    attention = 1 * 2 * 16 * 4 * 8  # L 2 T N H, half of the scores and of the mix
    assert hardware.flops_per_token(SIZES, 16) == 6 * matrices + 3 * attention
    assert hardware.flops_per_token(SIZES, 16, adapter_weights=10) == (
        4 * matrices + 60 + 3 * attention
    )


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("Tesla T4", 65e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v4", 275e12),
        ("cpu", None),
    ],
)
def test_peaks_by_the_device_s_name(name, peak):
    assert hardware.peak_flops(name) == peak


def test_half_precision_by_the_device_s_name():
    assert hardware.half_precision("Tesla T4") == "float16"
    assert hardware.half_precision("NVIDIA A100-SXM4-40GB") == "bfloat16"
    assert hardware.half_precision("cpu") is None


def test_a_cpu_trains_in_bfloat16_only_where_it_has_units_for_it(tmp_path):
    with_amx, without = tmp_path / "with", tmp_path / "without"
    with_amx.write_text("flags : fpu avx512f avx512_bf16 amx_bf16 amx_tile\n")
    without.write_text("flags : fpu avx512f avx512_bf16\n")
    assert hardware.mixed_policy("cpu", with_amx) == "mixed_bfloat16"
    assert hardware.mixed_policy("cpu", without) == "float32"
    assert hardware.mixed_policy("cpu", tmp_path / "missing") == "float32"
    assert hardware.mixed_policy("Tesla T4", without) == "mixed_float16"
    assert hardware.mixed_policy("NVIDIA L4", without) == "mixed_bfloat16"
