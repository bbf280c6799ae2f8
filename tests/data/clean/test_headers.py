"""Licences and other headers, which comparisons leave out."""

import numpy as np
import pytest

from codegemma_keras.data.clean import dedup, headers
from tests.data.clean.real_files import real_files

LICENCE = " ".join(f"word{i} of the licence" for i in range(200))


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (f"#!/usr/bin/env python\n# Copyright 2024\n#\n# {LICENCE}\n", "import os\n"),
        (f"\n// Licensed under X.\n// {LICENCE}\n\n", "package a\n"),
        (f"/* {LICENCE} */\n", "#include <a.h>\n"),
        (f"/*\n * License\n * {LICENCE}\n */\n", "// More.\nint x;\n"),
        (f"-- license {LICENCE}", ""),
    ],
)
def test_a_licence_at_the_top_makes_no_duplicate(header, code):
    assert headers.without_licence(header + code).strip() == code.strip()
    files = real_files(6)
    one, two = (header + code + text[:600] for text in files[4:6])
    sketches = np.array([dedup.signature(one), dedup.signature(two)])
    assert dedup.similar_pairs(sketches) == set()


@pytest.mark.parametrize(
    "text",
    ["# How this works\n\nx = 1\n", "#include <licence.h>\n", "", "\n\n", "/* open"],
)
def test_other_comments_stay(text):
    assert headers.without_licence(text) == text


def test_half_of_a_licence_is_looked_for_in_linear_time():
    # Quadratic, this would take hours.
    for text in ("\n" * 10**6, "# x\n" * 10**6, "/*" * 10**6, "//" + "-" * 10**6):
        assert headers.without_licence(text) == text


MIT = """Copyright (c) 2019 A. Author and others

Permission is hereby granted, free of charge, to any person obtaining a copy of this
software, to deal in the Software without restriction.

The above copyright notice shall be included in all copies of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED."""
SLASHES = "\n".join(f"// {line}".rstrip() for line in MIT.split("\n"))
BLOCK = "/*\n" + "\n".join(f" * {line}".rstrip() for line in MIT.split("\n")) + "\n */"
HASHES = SLASHES.replace("//", "#")


@pytest.mark.parametrize(
    ("before", "licence"),
    [
        ("#region License\n", f"{SLASHES}\n"),
        ("", f'"""\n{MIT}\n"""'),
        ("package a.b;\n\n", BLOCK),
        ("from __future__ import annotations\n\n", f"{HASHES}\n"),
        ("#pragma once\n\n", f"{SLASHES}\n"),
        ("#ifndef A_H_\n#define A_H_\n", BLOCK),
        ('"use strict";\n\n', BLOCK),
        ("<?php\n", BLOCK),
        ("<?php ", BLOCK),
        ("<?xml version='1.0'?>\n", f"<!--\n{MIT}\n-->"),
        ("", f"{HASHES}\n"),
        ("module A where\n", "{-" + MIT + "-}"),
    ],
)
def test_a_licence_is_found_wherever_it_stands(before, licence):
    code = "\nnamespace app {\n  run(a, b);  // twice\n}\n"
    left = headers.without_licence(before + licence + code)
    assert left.split() == (before + code).split()
    other = before + code + "/* How it works. */\n"
    assert headers.without_licence(other) == other


@pytest.mark.parametrize(
    "text",
    [
        'glob("src/**/*.js", license)\nx = 1\nglob("*/")\n',
        "#include <copyright.h>\n#define LICENSE 1\n#pragma warranty\n",
        "#[license(mit)]\nfn f() {}\n",
    ],
)
def test_code_that_names_a_licence_stays(text):
    assert headers.without_licence(text) == text


def recurring(texts):
    return headers.recurring(texts, dedup.shingles)


def test_what_most_files_share_is_their_header():
    """Whatever its words are, and whichever order the files come in."""
    banner = " ".join(f"banner{i}" for i in range(60))
    files = [f"# {banner}\n{text[:6000]}" for text in real_files(20)]
    phrases = recurring(files)
    assert np.isin(dedup.shingles(banner), phrases).all()
    np.testing.assert_array_equal(recurring(files[::-1]), phrases)
    assert len(phrases) < 200


def test_copies_have_no_header():
    """What copies share is their code, and few files show no habit."""
    text = real_files(1)[0]
    assert len(recurring([f"{text}\nx = {i}" for i in range(20)])) == 0
    assert len(recurring([f"import os\nimport re\n{i}" for i in range(7)])) == 0
