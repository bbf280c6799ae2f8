"""An index of a repository's files, by what an import may say of them.

Left out: the rules of each language, which are in `families/`.
"""

import collections
import functools
import posixpath
from collections.abc import Iterable, Iterator, Sequence

from codegemma_keras.data.languages import family, split_name
from codegemma_keras.data.order.facts import Facts


class Repository:
    """The index.

    Args:
        files: `Facts` of all files, also of those that no row is made of.

    Attributes:
        files, paths: `{path: Facts}`, and the paths alone.
        folders: all folders, `""` left out.
        by_stem: `{(family, name without ending): paths}`.
        by_package: `{(family, declared package): paths}`.
        by_folder: `{(family, folder): paths}`.
        build: `{path: what the build file says}`.
    """

    def __init__(self, files: Iterable[Facts]):
        self.files = {facts.path: facts for facts in files}
        self.paths = frozenset(self.files)
        self.folders = {f for path in self.paths for f in folders_above(path) if f}
        self.by_stem = collections.defaultdict(list)
        self.by_package = collections.defaultdict(list)
        self.by_folder = collections.defaultdict(list)
        self.build = {}
        for path in sorted(self.paths):
            facts = self.files[path]
            if facts.build is not None:
                self.build[path] = facts.build
            folder, stem = split_name(path)
            group = family(facts.language)
            self.by_stem[group, stem].append(path)
            self.by_folder[group, folder].append(path)
            for package in facts.package:
                self.by_package[group, package].append(path)

    def of_family(self, group: str) -> Iterator[Facts]:
        """All files of a family, in the order of their names."""
        for path in sorted(self.paths):
            if family(self.files[path].language) == group:
                yield self.files[path]

    def build_files(self, *names: str) -> dict[str, dict]:
        """`{folder: what it says}` of build files with these names."""
        return {
            posixpath.dirname(path): said
            for path, said in self.build.items()
            if posixpath.basename(path) in names
        }


def folders_above(path: str) -> Iterator[str]:
    """The folder of a file, the one above it, ... and `""`."""
    folder = posixpath.dirname(path)
    while folder.strip("/"):
        yield folder
        folder = posixpath.dirname(folder)
    yield ""


@functools.lru_cache(maxsize=100_000)
def parts_of(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


def join(*parts: str) -> str:
    """A normalised path; `""` for the repository's root; `../x` if it leads out of it."""
    path = posixpath.normpath(posixpath.join(*parts)) if any(parts) else ""
    return "" if path == "." else path


def nearest(paths: Sequence[str], importer: str) -> str | None:
    """The path that shares most folders with the importer, the first by name of several."""

    def rank(path):
        shared = 0
        for a, b in zip(parts_of(path), parts_of(importer), strict=False):
            if a != b:
                break
            shared += 1
        return -shared, path.count("/"), path

    return min(paths, key=rank, default=None)
