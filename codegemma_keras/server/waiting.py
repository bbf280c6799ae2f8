"""Between the scheduler's threads and a loop of asyncio: preparing, and a job's events."""

import asyncio
from collections.abc import Awaitable, Callable

from codegemma_keras.server.ask import ApiError, Ask
from codegemma_keras.server.job import Done, Failed, Job
from codegemma_keras.server.scheduler import Scheduler


def deliver_to(events: asyncio.Queue):
    """How the scheduler's thread tells the event loop."""
    loop = asyncio.get_running_loop()

    def deliver(event):
        loop.call_soon_threadsafe(events.put_nowait, event)

    return deliver


async def begin(scheduler: Scheduler, job: Job) -> bool:
    """Prepare a job in a thread and submit it; True. It ends if this task is cancelled.

    Raises:
        ApiError: too much is waiting; a newer job of the same editor came.
        ValueError, TypeError: what is asked for cannot be done.
    """
    scheduler.reserve(job, len(job.ask.requests))
    try:
        await asyncio.wrap_future(scheduler.call(scheduler.prepare, job))
        scheduler.submit(job)
        return True
    except BaseException:
        job.cancel()
        raise
    finally:
        scheduler.release(job)


async def in_thread(scheduler: Scheduler, function: Callable, *args):
    """What a function of text gives, run within the same bounds.

    Raises:
        ApiError: too much is waiting.
    """
    key = object()
    scheduler.reserve(key)
    try:
        return await asyncio.wrap_future(scheduler.call(function, *args))
    finally:
        scheduler.release(key)


async def unless(event: Awaitable, work: Awaitable):
    """What `work` gives; None, and `work` cancelled, if `event` happens before its end."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(event)
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()


async def until_done(job: Job, events: asyncio.Queue):
    """The events of a job.

    Raises:
        ApiError: it failed, it had no time, or a newer one took its place.
    """
    left = len(job.completions)
    while left:
        event = await events.get()
        if isinstance(event, Failed):
            if isinstance(event.error, ValueError):
                raise ApiError(400, str(event.error))
            raise ApiError(500, "The model failed; the server's log says why.")
        if isinstance(event, Done):
            left -= 1
            if refusal := job.refusal(event.index):
                raise refusal
        yield event


async def text_of(
    scheduler: Scheduler, ask: Ask, editor: str | None, number: int | None = None
) -> str:
    """The text of the one answer to `ask`; ended if the caller's task is cancelled.

    Args:
        scheduler: the model's.
        ask: one prompt, one answer.
        editor: whose; see `Job`.
        number: of the request's arrival, if that was before now.

    Raises:
        ApiError: as `until_done`; too much is waiting.
        ValueError, TypeError: what is asked for cannot be done.
    """
    events = asyncio.Queue()
    job = Job(ask, deliver_to(events), editor, number)
    await begin(scheduler, job)
    try:
        async for _ in until_done(job, events):
            pass
    finally:
        job.cancel()
    return job.completions[0].text
