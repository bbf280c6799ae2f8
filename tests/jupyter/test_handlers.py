"""One loading for all keystrokes, whether it succeeds or fails."""

import asyncio
import threading

import pytest

from codegemma_keras.jupyter import completing, handlers


@pytest.fixture
def loading(monkeypatch):
    """Loads that wait for `release`; their number, and what they end with."""

    class Loading:
        release = threading.Event()
        begun = 0
        error = None

        def __init__(self, preset):
            Loading.begun += 1
            Loading.release.wait(60)
            if Loading.error is not None:
                raise Loading.error

    monkeypatch.setattr(completing, "Completer", Loading)
    return Loading


def test_keystrokes_wait_for_one_loading_and_block_no_thread(loading):
    async def go():
        model = handlers.Model("tests/tiny")
        strokes = [asyncio.ensure_future(model.completer()) for _ in range(50)]
        while not loading.begun:
            await asyncio.sleep(0)
        strokes[0].cancel()  # the page asks for something newer
        # Threads are left for others, such as saving a notebook.
        await asyncio.wait_for(asyncio.to_thread(int), 60)
        loading.release.set()
        return await asyncio.wait_for(asyncio.gather(*strokes[1:]), 60)

    completers = asyncio.run(go())
    assert len(set(map(id, completers))) == 1
    assert loading.begun == 1


def test_a_loading_that_failed_is_not_tried_again(loading):
    loading.error = ValueError("no preset of this name")
    loading.release.set()

    async def go():
        model = handlers.Model("nothing")
        for _ in range(3):
            with pytest.raises(ValueError, match="no preset"):
                await model.completer()

    asyncio.run(go())
    assert loading.begun == 1
