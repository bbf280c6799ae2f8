"""C and C++: the file that an `#include` means.

`"x.h"` is looked for beside the includer, then, as `<a/x.h>`, by the longest path suffix,
which is what include paths come down to. `<x.h>` without a folder is the system's.

Left out: build systems; which folders they put on the include path follows from the tree.
"""

import posixpath

from codegemma_keras.data.languages import split_name
from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.repository import nearest, parts_of
from codegemma_keras.data.order.syntax import Source, text_of

QUERIES = {"cpp": "(preproc_include path: (_) @import)"}


def read(source: Source) -> Facts:
    return Facts(source.path, source.language, tuple(_imports(source)))


def _imports(source):
    for node in source.nodes("import"):
        text = text_of(node).strip()
        if text[:1] in ('"', "<"):
            yield Import(text[1:-1].replace("\\", "/"), quoted=text[0] == '"')


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._paths = repository.paths
        self._by_stem = repository.by_stem

    def resolve(self, facts):
        for entry in facts.imports:
            path = self._find(facts.path, entry)
            yield entry, {path: ()} if path else {}

    def _find(self, importer, entry):
        name = entry.module
        if entry.quoted:
            near = posixpath.normpath(posixpath.join(posixpath.dirname(importer), name))
            if near in self._paths:
                return near
        parts = tuple(p for p in posixpath.normpath(name).split("/") if p != "..")
        if not entry.quoted and len(parts) < 2:
            return None  # <vector>, <string.h>
        found = [
            path
            for path in self._by_stem["cpp", split_name(name)[1]]
            if parts_of(path)[-len(parts) :] == parts
        ]
        return nearest(found, importer)
