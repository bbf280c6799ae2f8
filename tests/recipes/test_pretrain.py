"""The pretraining recipe, small: rows, what it starts from, kills, bad settings."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, CodeGemmaTokenizer, data, lora
from codegemma_keras.recipes import pretrain
from codegemma_keras.training import loop, order, progress
from tests.small_vocabulary import small_vocabulary
from tests.tiny_models import our_task

TINY = {
    "num_layers": 1,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "num_query_heads": 2,
    "head_dim": 8,
    "dtype": "float32",
    "batch_tokens": 128,
    "warmup_steps": 2,
    "log_every": 1,
    "save_every": 3,
    "evaluate_every": 4,
    "held_out_rows": 3,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What `codegemma data build` makes of some Python: two folders, and a preset."""
    folder = tmp_path_factory.mktemp("built")
    our_task().save_to_preset(str(folder / "preset"))
    package = pathlib.Path(keras.__file__).parent / "src" / "losses"
    for name, files in (
        ("train", ("loss.py", "__init__.py")),
        ("held", ("losses.py",)),
    ):
        source = folder / f"{name}-source"
        source.mkdir()
        for file in files:
            (source / file).write_text((package / file).read_text())
        data.build(
            [str(source)],
            str(folder / name),
            str(folder / "preset"),
            data.Settings(length=64, licences=None, languages=("python",)),
        )
    return folder


def config(built, out, **changes):
    """Continued pretraining of the preset on the data."""
    options = {
        **TINY,
        "data": str(built / "train"),
        "held_out_data": str(built / "held"),
        "preset": str(built / "preset"),
        "out": str(built / out),
        "tokens": 1280,  # 10 steps
        "learning_rate": 1e-3,
        **changes,
    }
    return pretrain.PretrainConfig(**options)


def losses(out):
    names = ("step", "tokens", "loss", "held_out_loss", "learning_rate")
    return [tuple(row[n] for n in names) for row in progress.read(out / "curve.csv")]


def values(lm):
    return [keras.ops.convert_to_numpy(v) for v in lm.backbone.weights]


def start(config):
    options = []
    for name, value in dataclasses.asdict(config).items():
        if value is not None and not isinstance(value, (bool, tuple)):
            options += ["--" + name.replace("_", "-"), str(value)]
    command = [sys.executable, "-m", "codegemma_keras.recipes.pretrain", *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_continued_on_built_data_and_killed(built):
    lm = pretrain.train(config(built, "whole"))
    whole = losses(built / "whole")
    assert [row[0] for row in whole] == list(range(11))
    assert [row[0] for row in whole if row[3] is not None] == [0, 4, 8, 10]
    assert whole[-1][3] < whole[4][3]  # on files that it was not trained on
    with start(config(built, "killed")) as process:
        for line in process.stdout:
            if line.startswith("step 5/"):
                os.kill(process.pid, signal.SIGKILL)
                break
    again = pretrain.train(config(built, "killed"))
    assert losses(built / "killed") == whole
    saved = CodeGemmaCausalLM.from_preset(str(built / "killed" / "preset"))
    for ours, theirs, third in zip(
        values(lm), values(again), values(saved), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ours, third)


def test_an_adapter_over_an_integer_base(built):
    settings = config(built, "lora", lora_rank=4, quantize="int8", learning_rate=1e-2)
    pretrain.train(settings)
    found = losses(built / "lora")
    assert found[-1][3] < found[4][3]
    assert not (built / "lora" / "preset").exists()
    lm = CodeGemmaCausalLM.from_preset(str(built / "preset"))
    lora.load(lm, built / "lora" / "adapter")
    lm.compile(weighted_metrics=[])
    lm.preprocessor = None
    held_out = dataclasses.replace(settings, sequence_length=64)
    rows = pretrain.BuiltRows(held_out).held_out()
    loss = loop.evaluate(lm, order.in_order(rows, 2))
    assert loss == pytest.approx(found[-1][3], rel=0.02)  # the base is no longer int8


def test_data_and_settings_that_do_not_fit(built, tmp_path):
    cases = [
        ({"sequence_length": 32}, "rows of 64 tokens, and sequence_length is 32"),
        ({"preset": "code_gemma_tiny_py"}, "another tokenizer than that of"),
        ({"preset": None, "lora_rank": 2}, "needs weights to stand on"),
        ({"batch_tokens": 6400, "tokens": 640}, "do not fill one batch of 100 rows"),
        ({"batch_tokens": None}, "batch_tokens=None must be at least 1"),
        ({"data": str(tmp_path)}, "holds no data.json"),
        ({"quantize": "int8", "lora_rank": 0}, "nothing to train"),
    ]
    for number, (changes, message) in enumerate(cases):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            pretrain.train(config(built, f"bad-{number}", **changes))
        assert not list(built.glob(f"bad-{number}/checkpoints/step-*"))


def test_from_nothing_on_built_data(built):
    """The tokenizer is then the one that the data were built with."""
    settings = config(built, "nothing", preset=None, tokens=512)
    lm = pretrain.train(settings)
    proto = CodeGemmaTokenizer(proto=str(built / "train" / "tokenizer.model")).proto
    assert lm.tokenizer.proto == proto
    assert lm.backbone.num_layers == 1
    assert [row[0] for row in losses(built / "nothing")] == [0, 1, 2, 3, 4]


def test_from_nothing_on_packages(tmp_path, monkeypatch):
    """The embedded preset's recipe; a run that was interrupted ends in the same place."""
    spm = tmp_path / "small.spm"
    spm.write_bytes(small_vocabulary())
    settings = pretrain.PretrainConfig(
        **TINY,
        out=str(tmp_path / "whole"),
        packages=("rich",),
        held_out=("h5py",),
        tokenizer=str(spm),
        sequence_length=64,
        tokens=900,  # 7 steps
    )
    whole = pretrain.train(settings)
    assert [p.name for p in sorted((tmp_path / "whole").iterdir())] == [
        "checkpoints",
        "config.json",
        "curve.csv",
        "curve.png",
        "held_out.npz",
        "preset",
        "rows.npz",
    ]
    written = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert written["learning_rate"] == 2e-3
    assert written["batch_size"] == 2

    broken = dataclasses.replace(settings, out=str(tmp_path / "broken"))
    step = CodeGemmaCausalLM.train_on_batch
    steps = []

    def interrupted(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(CodeGemmaCausalLM, "train_on_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.train(broken)
    resumed = pretrain.train(broken)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    for ours, theirs in zip(values(resumed), values(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Rows are made again if they would be others.
    tokenizer = whole.tokenizer
    changed = dataclasses.replace(pretrain.resolved(settings), fim_rate=0.0)
    again = pretrain.PackageRows(changed, tokenizer)
    (x, _, _), (old, _, _) = (
        next(rows.batches(0))
        for rows in (
            again,
            pretrain.PackageRows(pretrain.resolved(settings), tokenizer),
        )
    )
    assert not np.array_equal(x["token_ids"], old["token_ids"])


@pytest.mark.parametrize(
    ("tokens", "warmup"), [(256, 1), (128 * 50, 5), (128 * 900, 48)]
)
def test_a_short_run_reaches_its_rate(built, tokens, warmup):
    """With 48 updates of warm-up, a run of four never came above a tenth of its rate."""
    settings = config(built, "unused", tokens=tokens, warmup_steps=None)
    assert pretrain.resolved(settings).warmup_steps == warmup
    # Without `tokens`, the rows of the data say how long the run is.
    settings = dataclasses.replace(settings, tokens=None)
    rows = len(pretrain.rows_in(settings.data))
    expected = max(1, rows * 64 // 128 // 10)
    assert pretrain.resolved(settings).warmup_steps == expected
