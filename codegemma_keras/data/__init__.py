"""From repositories to training tokens: CodeGemma's data pipeline as a library.

    sources -> filters -> decontaminate -> secrets -> dedup -> repository order
            -> FIM in context -> packed rows -> ArrayRecord shards -> `load`

Each step is a generator or a pure function that is useful alone, and counts in a
`Report` what it drops and why. `build` runs them all, resumably; `codegemma data build` is
its command line, `beam` the same on Apache Beam. See docs/data.md.

    from codegemma_keras import data

    data.build(["path/to/repo", "lib-1.0.tar.gz"], "out", "code_gemma_tiny_py")
    model.fit(data.load("out", batch_size=8), steps_per_epoch=100)

Needs the extra: pip install "codegemma-keras[data]". Nothing here imports the model.
"""

import importlib
from typing import TYPE_CHECKING

# Public name -> the module that holds it.
_NAMES = {
    "Document": "document",
    "FimSettings": "rows.fim_split",
    "Report": "document",
    "Settings": "pipeline.settings",
    "build": "pipeline.build",
    "deduplicate": "clean.dedup",
    "filter_documents": "clean.filters",
    "load": "rows.storage",
    "order_files": "order.order",
    "read_source": "read.sources",
}

if TYPE_CHECKING:  # What editors and type checkers see.
    from codegemma_keras.data.clean.dedup import deduplicate
    from codegemma_keras.data.clean.filters import filter_documents
    from codegemma_keras.data.document import Document, Report
    from codegemma_keras.data.order.order import order_files
    from codegemma_keras.data.pipeline.build import build
    from codegemma_keras.data.pipeline.settings import Settings
    from codegemma_keras.data.read.sources import read_source
    from codegemma_keras.data.rows.fim_split import FimSettings
    from codegemma_keras.data.rows.storage import load

__all__ = [
    "Document",
    "FimSettings",
    "Report",
    "Settings",
    "build",
    "deduplicate",
    "filter_documents",
    "load",
    "order_files",
    "read_source",
]


def __getattr__(name):
    if name in _NAMES:
        module = importlib.import_module(f"{__name__}.{_NAMES[name]}")
        value = globals()[name] = getattr(module, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
