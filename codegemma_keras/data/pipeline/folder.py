"""The folder of a build: what in it is the build's own, and how results get there.

    OUT/.codegemma-build/   the work: manifest.json, lock, one folder for each stage
    OUT/*                   the results, moved there when all are made; data.json is last

Invariants:

* A build starts in a folder that is new, that is empty, or that holds a build.
* It writes inside `.codegemma-build` alone until the results are moved up, and a result
  is never moved onto a file that holds something else.
* It removes what it made under names of its own, and nothing else.

A task fills a folder of its own, which is renamed when it is complete and on the disk, so
what has its final name is whole.
"""

import contextlib
import fcntl
import filecmp
import json
import os
import pathlib
import shutil

from codegemma_keras import files

WORK = ".codegemma-build"
MANIFEST = "manifest.json"
LOCK = "lock"
TIMINGS = "timings.json"
# Written last: its presence means that the build is finished.
DATA = "data.json"
# The manifest of a finished build.
BUILD = "build.json"
# In both, so that a folder can be told from one that holds other people's JSON.
MADE_BY = {"made_by": "codegemma data build"}


class BuildFolder:
    """The output folder of one build.

    Args:
        out: the folder; it need not be there.
        stages: names of the stages' folders.

    Attributes:
        out, work: paths.

    Raises:
        ValueError: the folder holds files and no build.
    """

    def __init__(self, out, stages):
        self.out = pathlib.Path(out)
        self.work = self.out / WORK
        self._stages = tuple(stages)
        self._refuse_others()

    def _refuse_others(self):
        if not self.out.exists():
            return
        if not self.out.is_dir():
            raise ValueError(
                f"{self.out} is a file. Name a folder that is new or empty."
            )
        names = sorted(os.listdir(self.out))
        begun = set(names) == {WORK} and all(
            name == LOCK or name.startswith(MANIFEST) for name in os.listdir(self.work)
        )
        if not (names and not begun and self.manifest() is None):
            return
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise ValueError(
            f"{self.out} holds {len(names)} files or folders that are no build's "
            f"({shown}). Name a folder that is new or empty."
        )

    def manifest(self) -> dict | None:
        """What the build in this folder is made from, or None where there is none."""
        for path in (self.work / MANIFEST, self.out / BUILD):
            try:
                found = json.loads(path.read_text("utf-8"))
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue
            if isinstance(found, dict) and found.items() >= MADE_BY.items():
                return found
        return None

    def about(self) -> dict:
        """What `data.json` holds."""
        return json.loads((self.out / DATA).read_text("utf-8"))

    def finished(self) -> bool:
        """Whether the build is finished, and all that it made is still there."""
        if self.manifest() is None or not (self.out / DATA).exists():
            return False
        made = self.about()["files"] | dict.fromkeys((BUILD, "report.html"))
        return all(
            (self.out / name).is_file()
            and size in (None, (self.out / name).stat().st_size)
            for name, size in made.items()
        )

    def begin(self, manifest: dict):
        """Write the manifest, and make the stages' folders without what was left half done."""
        if not (self.work / MANIFEST).exists():
            # Of a finished build that lost a file: its date stays.
            manifest = self.manifest() or MADE_BY | manifest
            text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
            files.put(self.work / MANIFEST, text.encode())
        for stage in self._stages:
            folder = self.work / stage
            folder.mkdir(exist_ok=True)
            for name in os.listdir(folder):
                if name.startswith(_TEMPORARY):
                    shutil.rmtree(folder / name)

    @contextlib.contextmanager
    def lock(self):
        """Hold the folder.

        Raises:
            ValueError: another build holds it.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with open(self.work / LOCK, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"Another build is at work in {self.out}.") from error
            yield

    def publish(self, results: dict):
        """Move results up; `data.json` last, and nothing over a file of another content.

        Args:
            results: `{name in OUT: path in the work folder}`. Those that an interrupted
                call moved are no longer in the work folder.

        Raises:
            ValueError: a file of that name is there that this build did not make.
        """
        for name in sorted(results, key=lambda name: name == DATA):
            made, path = results[name], self.out / name
            if not made.exists() and path.exists():
                continue
            if path.exists() and not filecmp.cmp(made, path, shallow=False):
                raise ValueError(
                    f"{path} is in the way: this build did not write it. Move it "
                    "elsewhere and run the same command again."
                )
            files.sync(made)
            os.replace(made, path)
        files.sync(self.out)

    def clear(self):
        """Remove the work. What others put there stays."""
        for stage in self._stages:
            shutil.rmtree(self.work / stage, ignore_errors=True)
        for name in os.listdir(self.work):
            if name in (TIMINGS, LOCK) or name.startswith(MANIFEST):
                (self.work / name).unlink()
        with contextlib.suppress(OSError):
            self.work.rmdir()


# No name of a task begins so.
_TEMPORARY = "unfinished-"


def run_task(folder: pathlib.Path, fill, *args):
    """Call `fill(temporary folder, *args)` and rename it to `folder`, unless that is there."""
    if folder.exists():
        return
    temporary = folder.parent / f"{_TEMPORARY}{folder.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        fill(temporary, *args)
        for path in temporary.iterdir():
            files.sync(path)
        files.sync(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            # A worker that outlived its killed parent was faster, with the same bytes.
            if not folder.exists():
                raise
        files.sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
