"""What the benchmark of load claims: editors ask different prompts, and texts are compared."""

import importlib
import itertools
import pathlib
import sys

import pytest

BENCHMARKS = str(pathlib.Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmarks, which are no package."""
    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])
    return importlib.import_module


def test_no_two_editors_ask_the_same_prompt(module):
    strokes = module("_strokes")
    editors = [
        list(strokes.places(editor, 40, 20)) for editor in range(len(strokes.FILES))
    ]
    assert len(editors) == 16
    for number in range(40):
        asked = [own[number] for own in editors]
        assert len(set(asked)) == 16
        # What a server could share: the beginning of the prompt, which is the suffix.
        for (_, one), (_, other) in itertools.combinations(asked, 2):
            assert one[:200] != other[:200]


def test_more_editors_than_files_are_refused(module):
    strokes = module("_strokes")
    with pytest.raises(ValueError, match="16 editors"):
        next(strokes.places(16, 1, 20))


def test_a_text_of_another_editor_is_seen(module):
    compare = module("serve_load").compare
    alone = {(0, 0): "a1", (0, 1): "same", (1, 0): "b1", (1, 1): "same"}
    good = compare([["a1", "same"], ["b1", "same"]], alone)
    assert good == {
        "compared": 4,
        "telling": 2,
        "parted_texts": 0,
        "other_texts": 0,
        "texts_of_others": 0,
    }
    swapped = compare([["b1", "same"], ["b2", None]], alone)
    assert swapped["texts_of_others"] == 1
    assert swapped["parted_texts"] == 1
    assert swapped["other_texts"] == 2
