"""A server answers as soon as its model is loaded, and compiles when nobody asks."""

import threading

import numpy as np
import pytest
from starlette.testclient import TestClient

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.server import loading
from codegemma_keras.server.app import create_app
from codegemma_keras.server.scheduler import Scheduler, least_of
from codegemma_keras.server.settings import Settings
from tests.small_task import small_task

TINY = "code_gemma_tiny_py"


def test_loading_compiles_nothing():
    lm = loading.load(Settings(TINY, context=96, compiled_folder=None))
    assert lm.preprocessor.sequence_length == 96
    assert lm.engine.compilations == 0


def test_a_server_uses_an_adapter(tmp_path):
    lm = CodeGemmaCausalLM.from_preset(TINY)
    lora.add(lm, "mine", rank=2)
    for variable in lm.trainable_variables:
        variable.assign(variable + 0.1)
    lora.save(lm, tmp_path, "mine")
    served = loading.load(Settings(TINY, adapter=str(tmp_path), compiled_folder=None))
    plain = loading.load(Settings(TINY, compiled_folder=None))
    ids = [[2, 40, 50, 60]]
    found, expected, other = (m.log_probabilities(ids)[0] for m in (served, lm, plain))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - other).max() > 0.1


@pytest.fixture(scope="module")
def stored_in_bfloat16(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "preset"
    lm = CodeGemmaCausalLM.from_preset(TINY, dtype="bfloat16")
    lm.save_to_preset(str(folder))
    return str(folder)


@pytest.mark.parametrize(
    ("asked", "memory", "dtype"),
    [
        (None, 2**34, "float32"),
        (None, 2**20, "bfloat16"),  # too little
        ("auto", 2**34, "bfloat16"),
        ("float32", 2**20, "float32"),
    ],
)
def test_a_small_model_is_served_in_float32_on_a_cpu(
    stored_in_bfloat16, monkeypatch, asked, memory, dtype
):
    monkeypatch.setattr(loading.memory, "free_bytes", lambda: memory)
    lm = loading.load(Settings(stored_in_bfloat16, dtype=asked, compiled_folder=None))
    assert lm.backbone.dtype_policy.name == dtype


def test_requests_are_served_before_programs_are_compiled(lm):
    begun, release = threading.Event(), threading.Event()

    def warm(scheduler):
        begun.set()
        assert release.wait(60)

    app = create_app(Settings("tests/tiny"), lambda: lm, warm)
    with TestClient(app, base_url="http://127.0.0.1:8012") as client:
        assert begun.wait(60)
        assert client.get("/health").status_code == 200
        body = {"prompt": "x", "n_predict": 2}
        assert client.post("/completion", json=body).status_code == 200
        release.set()


def test_after_compiling_ahead_a_first_request_compiles_nothing(monkeypatch):
    lm = small_task()
    lm.preprocessor.sequence_length = 64
    scheduler = Scheduler(lm, rows=2)
    monkeypatch.setattr(loading, "QUIET", 0.0)
    loading.warm(scheduler, Settings("tests/tiny", rows=2))
    compiled = lm.engine.compilations
    assert compiled > 0
    app = create_app(Settings("tests/tiny", rows=2), lambda: lm)
    with TestClient(app, base_url="http://127.0.0.1:8012") as client:
        while client.get("/health").status_code != 200:
            pass
        for options in ({}, {"temperature": 0.8, "seed": 1}):
            body = {"prompt": "def f(", "n_predict": 8, **options}
            assert client.post("/completion", json=body).status_code == 200
    assert lm.engine.compilations == compiled
    scheduler.close(0)


def test_prompts_of_any_length_decode_by_one_program():
    """Each size of cache had its own, which took seconds to compile and 40 MB."""
    lm = small_task()
    lm.preprocessor.sequence_length = 512
    app = create_app(Settings("tests/tiny", rows=1, warm_up=False), lambda: lm)
    with TestClient(app, base_url="http://127.0.0.1:8012") as client:
        while client.get("/health").status_code != 200:
            pass
        for characters in (1, 200, 400):
            body = {"prompt": "x" * characters, "n_predict": 2}
            assert client.post("/completion", json=body).status_code == 200
    assert {slots for _, _, slots in lm.engine._decode_shapes} == {512}


@pytest.mark.parametrize(("mebibytes", "slots"), [(1, 256), (0.5, 256), (0.4, 1)])
def test_large_caches_are_as_short_as_their_prompts(mebibytes, slots):
    """Of CodeGemma 7B, 512 MiB hold two caches of 512 slots, and seventeen of 64."""
    lm = small_task()  # a cache of its whole context takes 32 KiB
    assert least_of(lm, int(mebibytes * 2**20)).slots == slots


def test_compiling_waits_until_nobody_asks_but_not_for_ever(lm):
    scheduler = Scheduler(lm, rows=2)
    assert scheduler.wait_until_quiet(0.01, 60)
    scheduler._open.append(None)  # something that does not end
    try:
        assert not scheduler.wait_until_quiet(0.01, 0.05)
    finally:
        scheduler._open.clear()
        scheduler.close(0)


def test_a_closed_scheduler_compiles_nothing_more(lm):
    compiled = lm.engine.compilations
    scheduler = Scheduler(lm)
    scheduler.close(0)
    loading.warm(scheduler, Settings(TINY))
    assert lm.engine.compilations == compiled
