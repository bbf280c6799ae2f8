"""Learning rates by the step."""

import numpy as np
import pytest

from codegemma_keras.training import schedules


def test_schedules():
    wsd = schedules.learning_rate("wsd", 1.0, 100, 10, 0.2)
    values = [float(wsd(step)) for step in (0, 9, 50, 79, 90, 100)]
    np.testing.assert_allclose(values, [0.1, 1, 1, 1, 0.5, 0], atol=1e-6)
    cosine = schedules.learning_rate("cosine", 1.0, 110, 10, 0.2)
    values = [float(cosine(step)) for step in (0, 4, 9, 110)]
    np.testing.assert_allclose(values, [0.1, 0.5, 1, 0], atol=1e-6)
    assert abs(float(cosine(59)) - 0.5) < 0.01
    again = schedules.WarmupCosine.from_config(cosine.get_config())
    assert float(again(20)) == float(cosine(20)) > 0
    parts = schedules.learning_rate("wsd", 1.0, 100, 10, 0.2, parts=4)
    again = schedules.PerUpdate.from_config(parts.get_config())
    for step in (0, 3, 4, 359, 399):
        assert float(parts(step)) == float(again(step)) == float(wsd(step // 4))
    with pytest.raises(ValueError, match="'linear': give 'cosine' or 'wsd'"):
        schedules.learning_rate("linear", 1.0, 1, 1, 0.2)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("updates", [1, 2, 3, 40])
@pytest.mark.parametrize("warmup", [1, 2, 10])
def test_no_update_of_a_run_is_in_vain(schedule, updates, warmup):
    """With Keras's `CosineDecay` the first update had the rate zero."""
    rate = schedules.learning_rate(schedule, 1.0, updates, warmup, 0.5)
    values = [float(rate(step)) for step in range(updates)]
    assert all(0 < value <= 1 for value in values)
    if updates >= warmup:
        assert max(values) == 1
