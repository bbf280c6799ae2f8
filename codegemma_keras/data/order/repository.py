"""An index of a repository's files, by what an import may say of them.

Left out: the rules of each language, which are in `resolve.py`.
"""

import collections
import posixpath
from collections.abc import Iterable, Sequence

from codegemma_keras.data.languages import family, split_name
from codegemma_keras.data.order.imports import Facts

# The file that stands for its folder.
INDEX_NAMES = {"python": ("__init__",), "javascript": ("index",), "rust": ("mod",)}


class Repository:
    """The index.

    Args:
        files: `Facts` of all files.

    Attributes:
        files, paths: `{path: Facts}`, and the paths alone.
        folders_named: `{last part: folders}`.
        by_stem: `{(family, name without ending): paths}`; index files also under their
            folder's name.
        by_package: `{(family, declared package): paths}`.
        by_folder: `{(family, folder): paths}`.
    """

    def __init__(self, files: Iterable[Facts]):
        self.files = {facts.path: facts for facts in files}
        self.paths = frozenset(self.files)
        self.folders_named = collections.defaultdict(list)
        for folder in sorted({f for path in self.paths for f in _ancestors(path)}):
            self.folders_named[posixpath.basename(folder)].append(folder)
        self.by_stem = collections.defaultdict(list)
        self.by_package = collections.defaultdict(list)
        self.by_folder = collections.defaultdict(list)
        for path in sorted(self.paths):
            facts = self.files[path]
            folder, stem = split_name(path)
            group = family(facts.language)
            self.by_stem[group, stem].append(path)
            if stem in INDEX_NAMES.get(group, ()) and folder:
                self.by_stem[group, posixpath.basename(folder)].append(path)
            self.by_folder[group, folder].append(path)
            for package in facts.package:
                self.by_package[group, package].append(path)
        self.go_modules = None  # Found by the first Go import.

    def modules(self, group: str, parts: Sequence[str]) -> list[str]:
        """Files whose path, without extension and index name, ends with `parts`."""
        found = []
        for path in self.by_stem[group, parts[-1]]:
            have = module_parts(path, group)
            if have[-len(parts) :] == list(parts):
                found.append(path)
        return found

    def narrow(self, facts: Facts, paths: Sequence[str]) -> list[str]:
        """Of a package's files, those that declare a name the importer mentions.

        All of them where that says nothing.
        """
        mentioned = [
            p for p in paths if not self.files[p].declares.isdisjoint(facts.uses)
        ]
        return mentioned or list(paths)


def module_parts(path: str, group: str) -> list[str]:
    """`a/b/__init__.py -> [a, b]`, `a/b.py -> [a, b]`."""
    folder, stem = split_name(path)
    parts = folder.split("/") if folder else []
    return parts if stem in INDEX_NAMES.get(group, ()) else [*parts, stem]


def _ancestors(path):
    folder = posixpath.dirname(path)
    while folder:
        yield folder
        folder = posixpath.dirname(folder)


def nearest(paths: Sequence[str], importer: str) -> list[str]:
    """The one path that shares most folders with the importer, or none."""

    def rank(path):
        shared = 0
        for a, b in zip(path.split("/"), importer.split("/"), strict=False):
            if a != b:
                break
            shared += 1
        return -shared, path.count("/"), path

    return [min(paths, key=rank)] if paths else []
