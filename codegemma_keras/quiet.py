"""Keeping libraries quiet while they start up: in commands, and in notebooks."""

import contextlib
import faulthandler
import functools
import logging
import os
import sys
import tempfile


def in_notebook():
    """The scope in which a notebook imports what computes.

    A kernel shows what C++ writes to stderr below the cell: half a dozen lines in red that
    no setting prevents. Elsewhere, and after TensorFlow has started, nothing is hidden.
    """
    starts = "ipykernel" in sys.modules and "tensorflow" not in sys.modules
    return quiet_libraries() if starts else contextlib.nullcontext()


@contextlib.contextmanager
def quiet_libraries():
    """Hide what C++ libraries print on stderr while they start up.

    TensorFlow writes a dozen lines before it reads any setting of what to log. Python's
    own stderr (warnings, the progress of a download) stays as it is, and what was
    hidden is printed after an error that is not the user's.
    """
    # Once they have started: errors only. A user's own setting wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        before = os.dup(2)
    except OSError:  # closed: nothing to hide
        yield
        return
    with tempfile.TemporaryFile() as hidden, contextlib.redirect_stderr(_stderr()):
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except (ValueError, OSError, ImportError):
            raise
        except Exception:
            hidden.seek(0)
            os.write(before, hidden.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def _stderr():
    """Python's stderr, on a descriptor of its own if it was on 2."""
    try:
        return _second_stderr() if sys.stderr.fileno() == 2 else sys.stderr
    except (AttributeError, OSError):  # none at all, or not a file
        return sys.stderr


@functools.cache
def _second_stderr():
    # Kept open: a logger that is made meanwhile keeps writing to it.
    stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    faulthandler.enable(stderr)  # so that a crash of a library is seen
    return stderr
