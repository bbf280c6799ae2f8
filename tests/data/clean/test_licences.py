"""Licences of repositories, of their folders and of single files."""

import importlib.metadata
import pathlib

import pytest

from codegemma_keras.data.clean import filters
from codegemma_keras.data.clean.licences import (
    PERMISSIVE,
    Licences,
    allows,
    find_licence,
    recognise,
    spdx,
)
from codegemma_keras.data.document import Document, Report


def licence_text(package):
    files = importlib.metadata.files(package)
    return next(f for f in files if f.name.startswith("LICENSE")).read_text()


MIT, APACHE, BSD = (licence_text(p) for p in ("attrs", "absl-py", "click"))
# The first lines, as they stand in a COPYING that holds no more.
GPL_2 = """This program is free software; you can redistribute it and/or modify it under the
terms of the GNU General Public License as published by the Free Software Foundation;
either version 2 of the License, or (at your option) any later version."""


def of(path, files):
    return Licences((p, text.encode) for p, text in files.items()).of(path)


@pytest.mark.parametrize(
    ("text", "licence"), [(MIT, "MIT"), (APACHE, "Apache-2.0"), (BSD, "BSD-3-Clause")]
)
def test_texts(text, licence):
    assert recognise(text) == licence


def test_gpl_2_is_not_lgpl_3():
    assert recognise(GPL_2).startswith("GPL-2.0")
    notice = (
        "This Source Code Form is subject to the terms of the Mozilla Public License."
    )
    assert "AGPL" not in recognise(f"{notice} If a copy of the MPL was not distributed")


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        (
            "pyproject.toml",
            '[project]\nlicense = "MIT OR Apache-2.0"',
            "MIT OR Apache-2.0",
        ),
        (
            "pyproject.toml",
            '[project]\nlicense = {text = "BSD-3-Clause"}',
            "BSD-3-Clause",
        ),
        ("pyproject.toml", '[tool.poetry]\nlicense = "ISC"', "ISC"),
        (
            "pyproject.toml",
            '[project]\nclassifiers = ["License :: OSI Approved :: MIT License"]',
            "MIT",
        ),
        ("package.json", '{"license": "(MIT OR GPL-3.0-only)"}', "MIT OR GPL-3.0-only"),
        (
            "package.json",
            '{"licenses": [{"type": "MIT"}, {"type": "ISC"}]}',
            "MIT OR ISC",
        ),
        ("Cargo.toml", '[package]\nlicense = "MIT/Apache-2.0"', "MIT OR Apache-2.0"),
        ("setup.cfg", "[metadata]\nlicense = MIT\n", "MIT"),
        ("PKG-INFO", "Name: x\nLicense-Expression: Zlib\n\nText", "Zlib"),
        (
            "METADATA",
            "License: UNKNOWN\nClassifier: License :: OSI Approved :: ISC License (ISCL)\n",
            "ISC",
        ),
        ("LICENSES/MIT.txt", MIT, "MIT"),
        ("package.json", '{"license": ["', ""),
        ("pyproject.toml", "[project\n", ""),
        ("README.md", MIT, ""),
    ],
)
def test_manifests(name, text, licence):
    assert find_licence([(name, text.encode)]) == licence


def test_the_nearest_statement_holds():
    files = {
        "LICENSE": MIT,
        "ext/COPYING": APACHE,
        "ext/deep/package.json": '{"license": "GPL-2.0-only"}',
        ".gitmodules": '[submodule "m"]\n\tpath = third/mod\n\turl = x\n',
        "a.bin.license": "SPDX-License-Identifier: CC0-1.0\n",
        "REUSE.toml": 'version = 1\n[[annotations]]\npath = "gen/**"\n'
        'SPDX-License-Identifier = "Zlib"\n',
    }
    assert of("a.py", files) == of("src/b.py", files) == "MIT"
    assert of("ext/a.c", files) == "Apache-2.0"
    assert of("ext/deep/x/a.js", files) == "GPL-2.0-only"
    assert of("third/mod/a.py", files) == ""
    assert of("a.bin", files) == "CC0-1.0"
    assert of("gen/x/y.py", files) == "Zlib"


def test_reuse_by_the_last_pattern_that_matches():
    files = {
        "REUSE.toml": (
            'version = 1\n[[annotations]]\npath = ["src/**", "*.md"]\n'
            'SPDX-License-Identifier = "MIT"\n[[annotations]]\npath = "src/gpl/**"\n'
            'SPDX-License-Identifier = "GPL-3.0-or-later"\n'
        ),
        "src/own/REUSE.toml": (
            'version = 1\n[[annotations]]\npath = "*.py"\n'
            'SPDX-License-Identifier = "Zlib"\n'
        ),
    }
    assert of("src/a/b.py", files) == of("x.md", files) == "MIT"
    assert of("docs/x.md", files) == ""  # One star stays within a folder.
    assert of("src/gpl/b.py", files) == "GPL-3.0-or-later"
    assert of("src/own/b.py", files) == "Zlib"
    assert of("src/own/in/b.py", files) == "MIT"
    dep5 = {
        ".reuse/dep5": (
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
            "Upstream-Name: x\n\nFiles: *\nCopyright: 2020 A\nLicense: MIT\n\n"
            "Files: gpl/* third/a.py\nCopyright: 2020 B\n 2021 C\n"
            "License: GPL-2.0-or-later\n"
        )
    }
    assert of("a.py", dep5) == of("third/b.py", dep5) == "MIT"
    assert of("gpl/deep/a.py", dep5) == of("third/a.py", dep5) == "GPL-2.0-or-later"


def test_several_statements_of_one_folder():
    alternatives = {"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE}
    assert set(of("a.rs", alternatives).split(" OR ")) == {"MIT", "Apache-2.0"}
    cargo = {"Cargo.toml": '[package]\nlicense = "MIT OR Apache-2.0"', "LICENSE": MIT}
    assert of("a.rs", cargo) == "MIT OR Apache-2.0"
    # The text of another licence than the manifest names: both hold.
    both = {"package.json": '{"license": "MIT"}', "COPYING": GPL_2}
    assert not allows(PERMISSIVE, of("a.js", both))
    # A list of others' licences beside the project's own.
    assert of("a.py", {"LICENSE": MIT, "LICENSE.third_party": GPL_2}) == "MIT"


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True), ("mit", True), ("MIT OR GPL-3.0-only", True), ("", False),
        ("MIT AND Apache-2.0", True), ("MIT AND GPL-2.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", False), ("no licence at all", False),
    ],
)  # fmt: skip
def test_expressions(expression, allowed):
    assert allows(PERMISSIVE, expression) == allowed


def test_a_file_s_own_tag_beats_its_repository():
    tag = "# SPDX-License-Identifier: {}\nx = 1\n"
    documents = [
        Document(tag.format("GPL-2.0-or-later"), "a.py", "r", "MIT", "python"),
        Document(tag.format("MIT"), "a.go", "r", "", "go"),
        Document("import os\nx = os.path\n", "b.py", "r", "MIT", "python"),
    ]
    report = Report()
    kept = list(filters.filter_documents(documents, report))
    assert [(d.path, d.licence) for d in kept] == [("a.go", "MIT"), ("b.py", "MIT")]
    assert report.number("filter", "licence GPL-2.0-or-later") == 1


def test_names_that_people_write():
    assert spdx("Apache License, Version 2.0") == "Apache-2.0"
    assert spdx("BSD") == ""  # Which of them it does not say.
    assert spdx("GNU Lesser General Public License v3 (LGPLv3)") == "LGPL-3.0-only"


def test_installed_packages():
    """Of every package here the text or the metadata is known, or it is rare."""
    unknown = []
    names = sorted({d.name for d in importlib.metadata.distributions()})[:40]
    for name in names:
        files = importlib.metadata.files(name) or ()
        found = [
            (pathlib.PurePath(f).name, f.locate().read_bytes)
            for f in files
            if ".dist-info" in str(f) and f.locate().is_file()
        ]
        if not find_licence(found):
            unknown.append(name)
    assert len(unknown) <= 0.2 * len(names), unknown
