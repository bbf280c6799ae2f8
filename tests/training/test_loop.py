"""The loop of all recipes: stops, bad data, several devices, what it writes."""

import dataclasses
import itertools
import os
import signal
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest
import safetensors.numpy

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, sharding
from codegemma_keras.training import config as settings
from codegemma_keras.training import (
    hardware,
    loop,
    memory,
    model,
    order,
    progress,
    schedules,
)
from codegemma_keras.training.checkpoints import Checkpoints
from codegemma_keras.training.interrupt import Interrupted
from tests.training.small_runs import SIZES, T, V, new_model, settings_of

GENERATOR = np.random.default_rng(4)
IDS = GENERATOR.integers(3, V, (24, T + 1)).astype("int32")
X = {"token_ids": IDS[:, :-1], "padding_mask": np.ones((24, T), "int32")}
ROWS = X, IDS[:, 1:], np.ones((24, T), "float32")


def run(config, steps=6, batches=None, held_out=None, keep_best=False):
    lm = new_model()
    model.compile_model(lm, config, steps)
    settings.keep_settings(config)

    def all_batches(start):
        size = order.rows_of_batch(config)
        return order.batches_of(ROWS, size, config.seed, start)

    loop.run(lm, config, steps, batches or all_batches, held_out, keep_best)
    return lm


def losses(out):
    return [row["loss"] for row in progress.read(out / "curve.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The losses of a run in two parts a step that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run(settings_of(folder, accumulation=2))
    return losses(folder)


def test_a_loss_that_is_no_number_stops_and_names_the_step(tmp_path, whole):
    config = settings_of(tmp_path, accumulation=2)

    def poisoned(start):
        for number in itertools.count(start):
            x, y, weight = order.batch_of(ROWS, number, 4, 0)
            yield x, y, weight * (np.nan if number == 4 else 1.0)

    match = r"loss of step 5 is nan.*of step 3.*batch 4 of the data"
    with pytest.raises(FloatingPointError, match=match):
        run(config, batches=poisoned)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [3]
    run(config)  # the data mended, it goes on
    assert losses(tmp_path) == whole


def test_weights_that_are_no_numbers_stop_too(tmp_path):
    """The loss of a step is known before its update, which may be what goes wrong."""
    config = settings_of(tmp_path, save_every=1, learning_rate=1e38, warmup_steps=1)
    with pytest.raises(FloatingPointError, match="step"):
        run(config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    if checkpoints.steps():
        lm = new_model()
        model.compile_model(lm, config, 6)
        checkpoints.restore(lm)
        assert all(np.isfinite(np.asarray(v)).all() for v in lm.trainable_variables)


def test_data_that_end_early_are_said_and_nothing_is_lost(tmp_path, whole):
    config = settings_of(tmp_path, accumulation=2)

    def short(start):
        return (order.batch_of(ROWS, n, 4, 0) for n in range(start, 4))

    with pytest.raises(ValueError, match="data ended after step 4 of 6"):
        run(config, batches=short)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [3, 4]
    run(config)
    assert losses(tmp_path) == whole


def test_a_full_disk_stops_the_run_and_it_can_go_on(tmp_path, monkeypatch, whole):
    config = settings_of(tmp_path, accumulation=2)
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
        run(settings_of(tmp_path))


def test_a_step_that_cannot_fit_is_refused_before_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match=r"needs at least .* MiB on each device"):
        run(settings_of(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_evaluation_weighs_every_target_alike():
    """Five rows in twos: the last batch is filled up, with rows that do not count."""
    lm = new_model()
    model.compile_model(lm, settings_of("unused", z_loss=0.5), 6)
    weight = GENERATOR.choice([0.0, 1.0, 2.0], (5, T)).astype("float32")
    rows = {name: value[:5] for name, value in X.items()}, IDS[:5, 1:], weight
    batches = list(order.in_order(rows, 2))
    assert [len(y) for _, y, _ in batches] == [2, 2, 2]
    found = loop.evaluate(lm, batches)
    plain = new_model()  # the loss of training has a z-loss, the held-out one has none
    model.compile_model(plain, settings_of("unused"), 6)
    whole = plain.test_on_batch(
        rows[0], rows[1], sample_weight=weight, return_dict=True
    )
    expected = float(whole["loss"]) * weight.size / weight.sum()
    assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="no target"):
        loop.evaluate(lm, [])


def test_the_log_has_means_rates_and_mfu(tmp_path, capsys):
    config = settings_of(tmp_path / "all", peak_tflops=1e-6, tensorboard=True)
    run(config)
    shown = capsys.readouterr().out
    grouped = dataclasses.replace(
        config, out=str(tmp_path / "some"), log_every=3, evaluate_every=3
    )
    run(grouped, held_out=ROWS)
    every, some = (progress.read(tmp_path / n / "curve.csv") for n in ("all", "some"))
    assert [row["step"] for row in some] == [0, 3, 6]
    start, *some = some
    assert start["loss"] is None
    assert start["held_out_loss"] > some[0]["held_out_loss"]
    np.testing.assert_allclose(
        [row["loss"] for row in some],
        np.mean([[row["loss"] for row in every[i : i + 3]] for i in (0, 3)], axis=1),
        rtol=1e-6,
    )
    assert every[-1]["held_out_loss"] is None
    assert some[-1]["held_out_loss"] < some[0]["held_out_loss"]
    needed = hardware.flops_per_token(SIZES, T)
    for row in every:
        share = needed * row["tokens_per_second"] / 1e6
        assert row["mfu"] == pytest.approx(share, rel=1e-2, abs=1e-4)
    # The rate of each update, not that of the next one, and no update is in vain.
    rate = schedules.learning_rate(
        config.schedule, config.learning_rate, 6, config.warmup_steps, config.decay
    )
    np.testing.assert_allclose(
        [row["learning_rate"] for row in every], [rate(n) for n in range(6)], rtol=1e-5
    )
    assert min(row["learning_rate"] for row in every) > 0
    # What the first step took, in which a program is compiled, foretells nothing.
    first = next(line for line in shown.splitlines() if "step 1/6" in line)
    assert first.endswith("and its program is compiled")
    assert "left" in next(line for line in shown.splitlines() if "step 2/6" in line)
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


def test_float16_trains_and_is_resumed_to_the_bit(tmp_path):
    config = settings_of(tmp_path / "whole", dtype="mixed_float16", save_every=1)

    def part(out, steps, stop=None):
        keras.utils.set_random_seed(0)
        lm = CodeGemmaCausalLM(CodeGemmaBackbone(**SIZES, dtype="mixed_float16"))
        here = dataclasses.replace(config, out=str(out))
        model.compile_model(lm, here, 6)
        loop.run(lm, here, steps, lambda n: order.batches_of(ROWS, 4, 0, n))
        return losses(out)

    whole = part(tmp_path / "whole", 6)
    assert whole[-1] < whole[0]
    part(tmp_path / "parts", 3)
    assert part(tmp_path / "parts", 6) == whole


def test_accumulation_may_change_when_a_run_goes_on(tmp_path, whole):
    config = settings_of(tmp_path, accumulation=2)
    run(config)
    (tmp_path / "checkpoints" / "step-00000006").rename(tmp_path / "gone")
    run(dataclasses.replace(config, accumulation=1))
    np.testing.assert_allclose(losses(tmp_path), whole, rtol=1e-5)
    (tmp_path / "checkpoints" / "step-00000006").rename(tmp_path / "gone too")
    lm = run(dataclasses.replace(config, accumulation=4))
    np.testing.assert_allclose(losses(tmp_path), whole, rtol=1e-5)
    assert int(lm.optimizer.iterations) == 6


def test_a_run_that_only_gets_worse_ends_with_what_it_began_with(tmp_path, capsys):
    config = settings_of(
        tmp_path, learning_rate=30.0, warmup_steps=1, evaluate_every=1, patience=2
    )
    lm = run(config, held_out=ROWS, keep_best=True)
    for ours, first in zip(lm.weights, new_model().weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(first))
    shown = capsys.readouterr().out
    assert "stopped early after step 2 of 6" in shown
    assert "no evaluation was better than the one before the first step" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_the_run_goes_on(tmp_path, whole, capsys, number):
    config = settings_of(tmp_path, accumulation=2, save_every=6)

    def interrupted(start):
        for n in itertools.count(start):
            if n == 3:
                os.kill(os.getpid(), number)
            yield order.batch_of(ROWS, n, 4, 0)

    with pytest.raises(Interrupted, match="after step 4 of 6, which is saved") as stop:
        run(config, batches=interrupted)
    assert stop.value.exit_code == 128 + number
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(config)
    assert losses(tmp_path) == whole
    assert "goes on after step 4 of 6" in capsys.readouterr().out


def test_a_second_interrupt_stops_at_once(tmp_path):
    def interrupted(start):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield order.batch_of(ROWS, start, 4, 0)

    with pytest.raises(KeyboardInterrupt) as stop:
        run(settings_of(tmp_path), batches=interrupted)
    assert not isinstance(stop.value, Interrupted)


def test_no_checkpoint_is_named_that_does_not_exist(tmp_path):
    x, y, weight = order.batch_of(ROWS, 0, 4, 0)
    with pytest.raises(FloatingPointError, match="No checkpoint was saved yet"):
        run(settings_of(tmp_path), batches=lambda n: iter([(x, y, weight * np.nan)]))


# A program of its own: devices must be made up before JAX starts.
ON_A_MESH = """
import sys
from tests.training.small_runs import settings_of
from tests.training.test_loop import run
from codegemma_keras import sharding
config = settings_of(sys.argv[1], mesh=sys.argv[2])
with sharding.use(config.mesh, {"num_query_heads": 4, "num_key_value_heads": 2}):
    run(config)
"""


def test_a_mesh_has_the_losses_of_one_device_and_its_checkpoints_fit(tmp_path):
    if keras.backend.backend() != "jax":
        with pytest.raises(RuntimeError, match="needs the JAX backend"):
            sharding.use("data=2", {"num_query_heads": 4, "num_key_value_heads": 2})
        return
    run(settings_of(tmp_path / "one"))
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
    run(settings_of(tmp_path / "four"))
    np.testing.assert_allclose(losses(tmp_path / "four"), four, rtol=1e-4)
    with pytest.raises(ValueError, match="fsdp=2 does not divide a batch of 1"):
        order.rows_of_part(settings_of("x", mesh="fsdp=2", batch_tokens=T))
