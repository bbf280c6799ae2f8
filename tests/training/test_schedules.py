"""Learning rates by the step."""

import numpy as np
import pytest

from codegemma_keras.training import schedules


def test_schedules():
    wsd = schedules.learning_rate("wsd", 1.0, 100, 10, 0.2)
    values = [float(wsd(step)) for step in (0, 9, 50, 79, 90, 100)]
    np.testing.assert_allclose(values, [0.1, 1, 1, 1, 0.5, 0], atol=1e-6)
    cosine = schedules.learning_rate("cosine", 1.0, 110, 10, 0.2)
    values = [float(cosine(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 0.5, 0], atol=1e-6)
    parts = schedules.learning_rate("wsd", 1.0, 100, 10, 0.2, parts=4)
    again = schedules.PerUpdate.from_config(parts.get_config())
    for step in (0, 3, 4, 359, 399):
        assert float(parts(step)) == float(again(step)) == float(wsd(step // 4))
    with pytest.raises(ValueError, match="'linear': give 'cosine' or 'wsd'"):
        schedules.learning_rate("linear", 1.0, 1, 1, 0.2)
