"""Two processes train one model: the same losses and results as one process."""

import json
import os
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, hosts, lora
from codegemma_keras.recipes import sft
from codegemma_keras.training.progress import read
from tests.tiny_models import our_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    our_task().save_to_preset(str(folder / "preset"))
    with (folder / "chats.jsonl").open("w") as file:
        for number in range(24):
            words = [f"word{number * k % 7}" for k in (1, 2, 3)]
            item = {"prompt": f"{words[0]}?", "answer": " ".join(words)}
            file.write(json.dumps(item) + "\n")
    return folder


def fields(folder, out, rank):
    """2 rows of 32 tokens a step, of which two processes have one each."""
    return {
        "data": str(folder / "chats.jsonl"),
        "out": str(folder / out),
        "preset": str(folder / "preset"),
        "sequence_length": 32,
        "batch_tokens": 64,
        "lora_rank": rank,
        "learning_rate": 1e-2,
        "epochs": 1,
        "held_out": 0.1,
        "evaluate_every": 2,
        "save_every": 2,
    }


def start(count, runs):
    """The processes of some runs. Together they have two simulated devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={2 // count} "
    together = {"mesh": "fsdp=2", "several_hosts": count > 1}
    runs = json.dumps([run | together for run in runs])
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hosts_program", runs],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": flags + os.environ.get("XLA_FLAGS", ""),
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def end(processes, code=0):
    """What each process printed, at its end."""
    done = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, done, strict=True):
        assert process.returncode == code, error[-3000:]
    return [out for out, _ in done]


def losses(out):
    names = ("step", "loss", "held_out_loss")
    return [[row[name] or 0.0 for name in names] for row in read(out / "curve.csv")]


def logits(preset, adapter=None):
    lm = CodeGemmaCausalLM.from_preset(str(preset))
    if adapter:
        lora.load(lm, adapter)
    ids = np.arange(3, 13)[None]
    found = lm({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    return keras.ops.convert_to_numpy(found)


# Processes join only on JAX; the other backend says so below.
if keras.backend.backend() == "jax":

    def test_two_processes_train_as_one_does(folder):
        adapter, all_weights = (4, 0)
        alone = start(1, [fields(folder, f"one{r}", r) for r in (adapter, all_weights)])
        end(alone)
        both = start(2, [fields(folder, f"two{r}", r) for r in (adapter, all_weights)])
        runs = 0  # the second run is interrupted: one process gets the signal
        for line in both[0].stdout:
            runs += line.startswith("sft of")
            if runs == 2 and line.startswith("step 3/"):
                both[1].send_signal(signal.SIGTERM)
                break
        end(both, 128 + signal.SIGTERM)
        first, second = end(start(2, [fields(folder, "two0", all_weights)]))
        assert "goes on after step" in first
        # Only the first process speaks; Gloo, which connects them, does so by itself.
        assert not [line for line in second.splitlines() if "[Gloo]" not in line]
        for rank in (adapter, all_weights):
            one, two = (losses(folder / f"{name}{rank}") for name in ("one", "two"))
            assert len(one) > 4
            assert one[-1][1] < one[1][1]  # it did learn
            np.testing.assert_allclose(two, one, atol=1e-4)
        for one, two in (
            (logits(folder / "one0/preset"), logits(folder / "two0/preset")),
            (
                logits(folder / "preset", folder / "one4/adapter"),
                logits(folder / "preset", folder / "two4/adapter"),
            ),
        ):
            np.testing.assert_allclose(two, one, atol=2e-3 * np.abs(one).max())

else:

    def test_several_hosts_need_jax(folder):
        config = sft.SFTConfig(
            **fields(folder, "refused", 4), mesh="fsdp=4", several_hosts=True
        )
        with pytest.raises(RuntimeError, match=r"several_hosts=True needs the JAX"):
            sft.train(config)


def test_one_process_is_the_first_and_has_all_rows():
    assert not hosts.several()
    assert hosts.is_first()
    assert hosts.own_rows(6) == slice(0, 6)
    assert hosts.largest(3) == 3
    value = keras.ops.convert_to_tensor([1.0, 2.0])
    np.testing.assert_array_equal(hosts.to_host(value), [1.0, 2.0])


def test_several_hosts_without_a_mesh_are_refused(folder):
    with pytest.raises(ValueError, match="needs a mesh over the devices of all hosts"):
        sft.SFTConfig(**fields(folder, "refused", 4), several_hosts=True)
