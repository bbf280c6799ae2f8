"""Processes that carry out the tasks of a build, and none that outlives it."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import signal
import threading


@contextlib.contextmanager
def worker_pool(workers: int):
    """`run(tasks, progress)` that carries out `[(function, *args), ...]` in processes.

    When the block is left by an error, the workers are stopped at once; when this
    process dies, by whatever signal, they stop themselves. Their tasks are made to be
    killed at any moment.

    Args:
        workers: processes; 1 works in this one.

    Raises:
        ValueError: `workers` is less than 1.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more.")
    if workers == 1:
        yield _run_here
        return
    before = set(multiprocessing.active_children())
    # Spawned: forking a process with threads (TensorFlow, JAX) may deadlock.
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_follow_parent
    )
    try:
        yield lambda tasks, progress: _run_there(executor, tasks, progress)
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def _follow_parent():
    """In a worker: leave ^C to the parent, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run_here(tasks, progress):
    progress(0, len(tasks))
    for done, (function, *args) in enumerate(tasks, 1):
        function(*args)
        progress(done, len(tasks))


def _run_there(executor, tasks, progress):
    progress(0, len(tasks))
    try:
        futures = [executor.submit(*task) for task in tasks]
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            future.result()
            progress(done, len(tasks))
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process died. Either memory ran out (use fewer workers), or the "
            'calling script starts workers without `if __name__ == "__main__":`. '
            "Finished work is kept: run the same again."
        ) from error
