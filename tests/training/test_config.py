"""Settings: what cannot work is refused early, and a run keeps the ones it has."""

import dataclasses

import pytest

from codegemma_keras.training import config as settings
from tests.training.small_runs import settings_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulation": 0}, "accumulation=0 must be at least 1"),
        ({"save_every": 0}, "save_every=0 must be at least 1"),
        ({"save_every": 3, "log_every": 2}, "must be a multiple of log_every"),
        ({"sequence_length": 16384}, "more than the 8192 tokens"),
        ({"batch_tokens": 100}, "multiple of sequence_length"),
        ({"lora_dropout": 1.0}, "at least 0 and below 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"remat": "all"}, "remat='all': give one of 'none'"),
        ({"dtype": "float16"}, "dtype='mixed_float16'"),
        ({"lora_rank": 0, "quantize": "int8"}, "nothing to train"),
        ({"lora_rank": 4, "quantize": "int8", "dtype": "float16"}, "quantize='int4'"),
        ({"lora_rank": 0, "adapter": "a"}, "merge the adapter"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(
    changes, message
):
    with pytest.raises(ValueError, match=message):
        settings_of("unused", **changes)


def test_other_settings_are_refused(tmp_path):
    config = settings_of(tmp_path)
    settings.keep_settings(config, data_digest="a")
    settings.keep_settings(config, data_digest="b")  # nothing was trained yet
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    written = (tmp_path / "config.json").read_bytes()
    changed = dataclasses.replace(config, seed=1)
    match = r"other settings \(data_digest: b -> a, seed: 0 -> 1\)"
    with pytest.raises(ValueError, match=match):
        settings.keep_settings(changed, data_digest="a")
    assert (tmp_path / "config.json").read_bytes() == written
    other = dataclasses.replace(config, save_every=1, remat="block")  # may change
    settings.keep_settings(other, data_digest="b")
