"""Between the scheduler's thread and a loop of asyncio: the events of a job."""

import asyncio

from codegemma_keras.server.ask import ApiError, Ask
from codegemma_keras.server.scheduler import Done, Failed, Job, Scheduler


def deliver_to(events: asyncio.Queue):
    """How the scheduler's thread tells the event loop."""
    loop = asyncio.get_running_loop()

    def deliver(event):
        loop.call_soon_threadsafe(events.put_nowait, event)

    return deliver


async def until_done(job: Job, events: asyncio.Queue):
    """The events of a job.

    Raises:
        ApiError: it failed, or a newer one took its place.
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
            if job.superseded:
                raise ApiError(409, "A newer request of the same editor came.")
        yield event


async def text_of(scheduler: Scheduler, ask: Ask, editor: str | None) -> str:
    """The text of the one answer to `ask`; ended if the caller's task is cancelled.

    Raises:
        ApiError: as `until_done`; too much is waiting.
        ValueError, TypeError: what is asked for cannot be done.
    """
    events = asyncio.Queue()
    job = Job(ask, deliver_to(events), editor)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, scheduler.prepare, job)
    scheduler.submit(job)
    try:
        async for _ in until_done(job, events):
            pass
    finally:
        job.cancel()
    return job.completions[0].text
