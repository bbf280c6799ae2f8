"""Files that are there whole or not at all, whatever stops the program.

A file is written under another name, synced and renamed. Left out: locks, and syncing
the folder's own entry after each file: losing the newest rename in a power cut only
means that its task runs again.
"""

import os
import pathlib


def sync(path):
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(path: pathlib.Path, data: bytes):
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(data)
    sync(temporary)
    os.replace(temporary, path)
