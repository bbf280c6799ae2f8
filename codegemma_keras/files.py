"""Files and folders that are there whole or not at all, whatever stops the program.

Something new is written under a temporary name beside its place, `NAME.tmp-PID`, synced
to the disk, and renamed. A name without `.tmp-` is therefore always a complete file or
folder: after a kill, a full disk or an exception, either the old content stands there or
the new one.

    with files.new_file(path) as temporary:      # a library writes the file
        safetensors.numpy.save_file(tensors, temporary)
    with files.new_folder(path) as temporary:    # several files that belong together
        (temporary / "config.json").write_text("{}")
    files.put(path, b"...")                      # bytes at hand

Left out: locks. Two programs that write one path at once do not damage it, and the last
one wins.
"""

import contextlib
import os
import pathlib
import re
import shutil

_TEMPORARY = re.compile(r"\.tmp-\d+$")


def cache_folder() -> pathlib.Path:
    """What can be made again is kept here: `$XDG_CACHE_HOME` or `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "codegemma_keras"


def sync(path):
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(path, data: bytes):
    """Write a file so that it is there whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def new_file(path):
    """A temporary path to write to, which becomes `path` when the block ends.

    An older file of that name is replaced. If the block raises, it stays.

    Args:
        path: str or `pathlib.Path`; `~` is the user's home, a folder that is not there
            is created.

    Yields:
        The temporary `pathlib.Path`, in the same folder and with the same suffix, since
        some libraries choose a format by it.
    """
    path = pathlib.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A suffix that is not the last: `numpy.savez` appends ".npz" where it is missing.
    temporary = path.with_name(f"{path.stem}.tmp-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def new_folder(path, replaced=None):
    """A temporary folder to fill, which becomes the folder `path` when the block ends.

    If the block raises, nothing of it stays.

    Args:
        path: str or `pathlib.Path`; `~` is the user's home.
        replaced: function of the path of a folder that stands there already. It returns
            whether that folder is of our making and may go. By default only an empty
            folder may.

    Yields:
        The temporary `pathlib.Path`.

    Raises:
        FileExistsError: something stands at `path` that may not be replaced. It is
            untouched.
    """
    path = pathlib.Path(path).expanduser()
    _check_free(path, replaced)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a dead process of our number
    try:
        temporary.mkdir()
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        _check_free(path, replaced)  # again: writing took a while
        _exchange(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def updated_folder(path):
    """As `new_folder`, but the new folder begins with all that the old one holds.

    What it takes over are links to the old files (copies where the file system has no
    links): `unlink` what you replace, as writing into a link would change the old
    folder's file too.
    """
    target = pathlib.Path(os.path.realpath(pathlib.Path(path).expanduser()))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{path} is a file; give the name of a folder.")
    with new_folder(target, replaced=lambda old: True) as temporary:
        if target.exists():
            shutil.copytree(
                target,
                temporary,
                symlinks=True,
                copy_function=_link,
                dirs_exist_ok=True,
            )
        yield temporary


def _link(source, destination):
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)
    return destination


def unlink(path):
    """Remove a file if it is there, so that the next write makes one of its own."""
    pathlib.Path(path).unlink(missing_ok=True)


def free_bytes(path) -> int:
    """Bytes that are free on the disk where `path` is or shall be."""
    path = pathlib.Path(path).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _check_free(path, replaced):
    if not path.exists():
        return
    if path.is_dir() and (not any(path.iterdir()) or (replaced and replaced(path))):
        return
    kind = "folder" if path.is_dir() else "file"
    raise FileExistsError(
        f"{path} is a {kind} with other content, and it is not overwritten. Name a new "
        "folder, or remove this one first."
    )


def _exchange(temporary, path):
    """Rename `temporary` to `path`, and remove what stood there."""
    if not path.exists():
        os.replace(temporary, path)
        return
    old = path.with_name(f"{path.name}.old.tmp-{os.getpid()}")
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def is_temporary(path) -> bool:
    """Whether a path has the name of something that was not finished."""
    name = pathlib.Path(path).name
    return bool(_TEMPORARY.search(name) or _TEMPORARY.search(pathlib.Path(name).stem))
