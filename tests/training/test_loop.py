"""The loop of all recipes: stops, bad data, several devices, what it writes."""

import dataclasses
import itertools
import os
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest
import safetensors.numpy

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, sharding
from codegemma_keras.plan import fit
from codegemma_keras.recipes import options
from codegemma_keras.training import flops, progress, schedules
from codegemma_keras.training import loop as training
from codegemma_keras.training.checkpoints import Checkpoints

V, T = 53, 16
SIZES = {
    "vocabulary_size": V,
    "num_layers": 1,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 80,
    "head_dim": 8,
}
GENERATOR = np.random.default_rng(4)
IDS = GENERATOR.integers(3, V, (24, T + 1)).astype("int32")
X = {"token_ids": IDS[:, :-1], "padding_mask": np.ones((24, T), "int32")}
ROWS = X, IDS[:, 1:], np.ones((24, T), "float32")


@dataclasses.dataclass(frozen=True)
class Config:
    out: str
    sequence_length: int = T
    batch_tokens: int = 4 * T
    accumulation: int = 1
    schedule: str = "wsd"
    learning_rate: float = 1e-2
    warmup_steps: int = 2
    decay: float = 0.3
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    z_loss: float = 0.0
    remat: str = "none"
    lora_rank: int = 0
    mesh: str | None = None
    log_every: int = 1
    evaluate_every: int = 0
    save_every: int = 3
    keep: int = 2
    patience: int = 0
    peak_tflops: float | None = None
    tensorboard: bool = False
    seed: int = 0


def model():
    keras.utils.set_random_seed(0)
    return CodeGemmaCausalLM(CodeGemmaBackbone(**SIZES))


def run(config, steps=6, batches=None, held_out=None):
    lm = model()
    training.compile_model(lm, config, steps)
    training.keep_settings(config)

    def all_batches(start):
        size = training.rows_of_part(config)
        return training.batches_of(ROWS, size, config.seed, start)

    training.run(lm, config, steps, batches or all_batches, held_out)
    return lm


def losses(out):
    return [row["loss"] for row in progress.read(out / "curve.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The losses of a run in two parts a step that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run(Config(str(folder), accumulation=2))
    return losses(folder)


def test_a_loss_that_is_no_number_stops_and_names_the_step(tmp_path, whole):
    config = Config(str(tmp_path), accumulation=2)

    def poisoned(start):
        for number in itertools.count(start):
            x, y, weight = training.batch_of(ROWS, number, 2, 0)
            yield x, y, weight * (np.nan if number == 8 else 1.0)

    match = r"loss of step 5 is nan.*of step 3.*batches 8 to 9 of the data"
    with pytest.raises(FloatingPointError, match=match):
        run(config, batches=poisoned)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [3]
    run(config)  # the data mended, it goes on
    assert losses(tmp_path) == whole


def test_weights_that_are_no_numbers_stop_too(tmp_path):
    """The loss of a step is known before its update, which may be what goes wrong."""
    config = Config(str(tmp_path), save_every=1, learning_rate=1e38, warmup_steps=1)
    with pytest.raises(FloatingPointError, match="step"):
        run(config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    if checkpoints.steps():
        lm = model()
        training.compile_model(lm, config, 6)
        checkpoints.restore(lm)
        assert all(np.isfinite(np.asarray(v)).all() for v in lm.trainable_variables)


def test_data_that_end_early_are_said_and_nothing_is_lost(tmp_path, whole):
    config = Config(str(tmp_path), accumulation=2)

    def short(start):
        # 9 parts: four updates, and one part that makes none.
        return (training.batch_of(ROWS, n, 2, 0) for n in range(start, 9))

    with pytest.raises(ValueError, match="data ended after step 4 of 6"):
        run(config, batches=short)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [3, 4]
    run(config)
    assert losses(tmp_path) == whole


def test_a_full_disk_stops_the_run_and_it_can_go_on(tmp_path, monkeypatch, whole):
    config = Config(str(tmp_path), accumulation=2)
    saved = []

    def save_file(*args):
        saved.append(args)
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        return original(*args)

    original = safetensors.numpy.save_file
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", save_file)
        with pytest.raises(OSError, match=r"No space left .* from step 3"):
            run(config)
    run(config)
    assert losses(tmp_path) == whole


def test_a_step_that_does_not_fit_says_what_to_turn(tmp_path, monkeypatch):
    def no_room(*args, **kwargs):
        raise RuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123456789 bytes."
        )

    monkeypatch.setattr(CodeGemmaCausalLM, "train_on_batch", no_room)
    match = r"wanted 0\.1 GiB.*Turn, cheapest first: .*remat='block'"
    with pytest.raises(MemoryError, match=match):
        run(Config(str(tmp_path)))


def test_a_step_that_cannot_fit_is_refused_before_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "free_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match=r"needs at least .* MiB on each device"):
        run(Config(str(tmp_path)))
    assert not (tmp_path / "checkpoints").exists()


def test_other_settings_are_refused(tmp_path):
    config = Config(str(tmp_path))
    training.keep_settings(config, data_digest="a")
    training.keep_settings(config, data_digest="b")  # nothing was trained yet
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    written = (tmp_path / "config.json").read_bytes()
    changed = dataclasses.replace(config, seed=1)
    match = r"other settings \(data_digest: b -> a, seed: 0 -> 1\)"
    with pytest.raises(ValueError, match=match):
        training.keep_settings(changed, data_digest="a")
    assert (tmp_path / "config.json").read_bytes() == written
    other = dataclasses.replace(config, save_every=1, remat="block")  # may change
    training.keep_settings(other, data_digest="b")


def test_evaluation_weighs_every_target_alike():
    """Five rows in twos: the last batch is filled up, with rows that do not count."""
    config = Config("unused")
    lm = model()
    training.compile_model(lm, config, 6)
    weight = GENERATOR.choice([0.0, 1.0, 2.0], (5, T)).astype("float32")
    rows = {name: value[:5] for name, value in X.items()}, IDS[:5, 1:], weight
    batches = list(training.in_order(rows, 2))
    assert [len(y) for _, y, _ in batches] == [2, 2, 2]
    found = training.evaluate(lm, batches)
    whole = lm.test_on_batch(rows[0], rows[1], sample_weight=weight, return_dict=True)
    expected = float(whole["loss"]) * weight.size / weight.sum()
    assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="no target"):
        training.evaluate(lm, [])


def test_the_log_has_means_rates_and_mfu(tmp_path, capsys):
    config = Config(str(tmp_path / "all"), peak_tflops=1e-6, tensorboard=True)
    run(config)
    shown = capsys.readouterr().out
    grouped = dataclasses.replace(
        config, out=str(tmp_path / "some"), log_every=3, evaluate_every=3
    )
    run(grouped, held_out=ROWS)
    every, some = (progress.read(tmp_path / n / "curve.csv") for n in ("all", "some"))
    assert [row["step"] for row in some] == [3, 6]
    np.testing.assert_allclose(
        [row["loss"] for row in some],
        np.mean([[row["loss"] for row in every[i : i + 3]] for i in (0, 3)], axis=1),
        rtol=1e-6,
    )
    assert every[-1]["held_out_loss"] is None
    assert some[-1]["held_out_loss"] < some[0]["held_out_loss"]
    needed = flops.flops_per_token(flops.Sizes.of(SIZES), T)
    for row in every:
        share = needed * row["tokens_per_second"] / 1e6
        assert row["mfu"] == pytest.approx(share, rel=1e-2, abs=1e-4)
    assert "step 6/6, loss" in shown
    assert "MFU" in shown
    assert "0 s left" in shown
    assert (tmp_path / "all" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    # TensorBoard is given the same numbers.
    (events,) = (tmp_path / "all" / "tensorboard").iterdir()
    found = dict(scalars(events.read_bytes(), "loss"))
    assert found == {r["step"]: pytest.approx(r["loss"], rel=1e-6) for r in every}
    # What a crash left of a line is forgotten.
    file = tmp_path / "all" / "curve.csv"
    file.write_text(file.read_text()[:-4])
    assert [row["step"] for row in progress.read(file)] == [1, 2, 3, 4, 5]
    progress.Curve(tmp_path / "all", 4, 6, 64, needed, None)  # goes on from step 4
    assert [row["step"] for row in progress.read(file)] == [1, 2, 3, 4]
    with pytest.raises(
        ValueError, match="save_every=3 must be a multiple of log_every"
    ):
        run(dataclasses.replace(config, out=str(tmp_path / "new"), log_every=2))


def scalars(data, tag):
    """`(step, value)` of an event file: records of length, crc, message, crc."""
    from tensorboardX.proto.event_pb2 import Event

    start = 0
    while start < len(data):
        (size,) = struct.unpack_from("<Q", data, start)
        event = Event.FromString(data[start + 12 : start + 12 + size])
        start += 12 + size + 4
        for value in event.summary.value:
            if value.tag == tag:
                yield event.step, value.simple_value


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


def test_flops_count_every_matrix_once():
    variables = model().trainable_variables
    matrices = sum(int(np.prod(v.shape)) for v in variables if len(v.shape) > 1)
    sizes = flops.Sizes.of(SIZES)
    assert sizes.matrix_weights() == matrices
    attention = 1 * 2 * 16 * 4 * 8  # L 2 T N H, half of the scores and of the mix
    assert flops.flops_per_token(sizes, 16) == 6 * matrices + 3 * attention
    assert flops.flops_per_token(sizes, 16, adapter_weights=10) == (
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
        ("cpu", None),
    ],
)
def test_peaks_by_the_device_s_name(name, peak):
    assert flops.peak_flops(name) == peak


def test_options_have_the_types_of_the_fields():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        """Made up."""

        rate: float | None = None
        steps: int = 3
        names: tuple[str, ...] = ("a",)
        loud: bool = False
        mesh: str | None = None

    options_ = ["--rate", "1e-3", "--names", "b", "c", "--loud", "--mesh", "data=2"]
    assert options.parse(Settings, "", options_) == Settings(
        1e-3, 3, ("b", "c"), True, "data=2"
    )
    assert options.parse(Settings, "", []) == Settings()
    with pytest.raises(SystemExit):
        options.parse(Settings, "", ["--st", "4"])  # no abbreviations


# A program of its own: devices must be made up before JAX starts.
ON_A_MESH = """
import sys
from tests.test_training_loop import Config, run
from codegemma_keras import sharding
config = Config(sys.argv[1], mesh=sys.argv[2])
with sharding.use(config.mesh, {"num_query_heads": 4, "num_key_value_heads": 2}):
    run(config)
"""


def test_a_mesh_has_the_losses_of_one_device_and_its_checkpoints_fit(tmp_path):
    if keras.backend.backend() != "jax":
        with pytest.raises(RuntimeError, match="needs the JAX backend"):
            sharding.use("data=2", {"num_query_heads": 4, "num_key_value_heads": 2})
        return
    run(Config(str(tmp_path / "one")))
    command = [
        sys.executable,
        "-c",
        ON_A_MESH,
        str(tmp_path / "four"),
        "fsdp=2,model=2",
    ]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run(command, env={**os.environ, **flags}, check=True)
    four = losses(tmp_path / "four")
    np.testing.assert_allclose(four, losses(tmp_path / "one"), rtol=1e-4)
    # From its checkpoint of step 3, one device goes on.
    (tmp_path / "four" / "checkpoints" / "step-00000006").rename(tmp_path / "gone")
    run(Config(str(tmp_path / "four")))
    np.testing.assert_allclose(losses(tmp_path / "four"), four, rtol=1e-4)
    with pytest.raises(ValueError, match="fsdp=2 does not divide a batch of 1"):
        training.rows_of_part(Config("x", mesh="fsdp=2", batch_tokens=T))
