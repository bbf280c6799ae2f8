"""One loading for all keystrokes, and one model at a time."""

import asyncio
import threading
import weakref

import pytest

from codegemma_keras.jupyter import completing
from codegemma_keras.jupyter.models import Models
from codegemma_keras.server.scheduler import Scheduler
from tests.small_task import small_task


class Loading:
    """Loads that wait for `release`; what was begun, and what they end with."""

    def __init__(self):
        self.release = threading.Event()
        self.begun = []
        self.closed = []
        self.error = None

    def __call__(self, name):
        self.begun.append(name)
        self.release.wait(60)
        if self.error is not None:
            raise self.error
        return Made(name, self.closed)


class Made:
    def __init__(self, name, closed):
        self.name = name
        self._closed = closed

    def close(self):
        self._closed.append(self.name)


@pytest.fixture
def loading():
    loading = Loading()
    yield loading
    loading.release.set()


def test_keystrokes_wait_for_one_loading_and_block_no_thread(loading):
    async def go():
        models = Models(["a"], loading)
        assert not models.loading
        strokes = [asyncio.ensure_future(models.completer("a")) for _ in range(50)]
        while not loading.begun:
            await asyncio.sleep(0)
        assert models.loading
        strokes[0].cancel()  # the page asks for something newer
        # Threads are left for others, such as saving a notebook.
        await asyncio.wait_for(asyncio.to_thread(int), 60)
        loading.release.set()
        done = await asyncio.wait_for(asyncio.gather(*strokes[1:]), 60)
        assert models.ready("a")
        return done

    completers = asyncio.run(go())
    assert len(set(map(id, completers))) == 1
    assert loading.begun == ["a"]


def test_a_loading_that_failed_is_tried_again_only_after_another_choice(loading):
    loading.release.set()

    async def go():
        models = Models(["a", "b"], loading)
        loading.error = ValueError("no preset of this name")
        for _ in range(3):
            with pytest.raises(ValueError, match="no preset"):
                await models.completer("a")
        loading.error = None
        await models.completer("b")
        await models.completer("a")

    asyncio.run(go())
    assert loading.begun == ["a", "b", "a"]
    assert loading.closed == ["b"]


def test_the_old_one_is_closed_before_the_new_one_is_made(loading):
    async def go():
        models = Models(["a", "b"], loading)
        first = asyncio.ensure_future(models.completer("a"))
        while not loading.begun:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(models.completer("b"))
        await asyncio.sleep(0)
        assert loading.begun == ["a"]
        loading.release.set()
        assert (await asyncio.wait_for(first, 60)).name == "a"
        assert (await asyncio.wait_for(second, 60)).name == "b"

    asyncio.run(go())
    assert (loading.begun, loading.closed) == (["a", "b"], ["a"])


def test_another_choice_frees_the_model(monkeypatch):
    made = []

    def for_one_editor(settings):
        lm = small_task()
        made.append(weakref.ref(lm.backbone))
        return Scheduler(lm)

    monkeypatch.setattr(completing, "for_one_editor", for_one_editor)
    freed = []

    def make(name):
        freed.append([model() is None for model in made])
        return completing.Completer(name)

    async def go():
        models = Models(["a", "b"], make)
        body = completing.CellBody(prefix="x = ", max_tokens=2)
        for name in ("a", "b"):
            completer = await models.completer(name)
            async for _ in completer.pieces(body):
                pass
        completer.close()

    asyncio.run(go())
    assert freed == [[], [True]]
