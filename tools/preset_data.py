"""Build the rows that the embedded preset learns from, by the whole data pipeline.

    python tools/preset_data.py runs/preset_data [--decontaminate HumanEval.jsonl.gz]

The permissively licensed packages of `recipes.pretrain`, as installed here, each a
repository; the standard library as an archive made in `OUT/sources`, without what is
installed inside it and without its tests. Rows of 512 tokens in the preset's vocabulary;
half of the middles are whole lines or the rest of one, 30 % end at a syntax node.
"""

import argparse
import os
import pathlib
import zipfile

from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.read import installed as corpus
from codegemma_keras.data.rows.fim_split import FimSettings
from codegemma_keras.recipes.pretrain import PretrainConfig

FIM = FimSettings(rate=0.9, syntax_share=0.3, line_share=0.375, short_share=0.125)
TOKENIZER = "code_gemma_tiny_py"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--decontaminate", action="append", default=[])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    packages = PretrainConfig().packages
    archive = options.out.with_name(f"{options.out.name}_stdlib.zip")
    if not archive.exists():
        archive_stdlib(archive)
    folders = [corpus.root_of(name) for name in packages if name != corpus.STDLIB]
    settings = Settings(
        length=512,
        languages=("python",),
        licences=None,  # of an installed package it stands in the metadata: see the card
        benchmarks=tuple(options.decontaminate),
        fim=FIM,
    )
    report = pipeline.build(
        [archive, *folders],
        options.out,
        TOKENIZER,
        settings,
        workers=options.workers,
        progress=lambda stage, done, total: print(
            f"{stage} {done}/{total}", flush=True
        ),
    )
    print(report)


def archive_stdlib(file):
    """The Python files of the standard library as one zip, in order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    root = corpus.root_of(corpus.STDLIB)
    new = file.with_suffix(".new")
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sorted(root.rglob("*.py")):
            path = source.relative_to(root)
            if not corpus.SKIPPED_FOLDERS.intersection(path.parts):
                archive.write(source, f"python/{path.as_posix()}")
    new.replace(file)


if __name__ == "__main__":
    main()
