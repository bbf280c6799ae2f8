"""Conversations as people have them: formats, files, roles, and what is refused."""

import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from codegemma_keras.recipes import conversations
from codegemma_keras.recipes.conversations import read

PAIR = (("user", "Two and two?"), ("model", "Four."))
FULL = (("user", "Be brief.\n\nTwo and two?"), ("model", "Four."))


def turns(conversation):
    return tuple((turn.role, turn.content) for turn in conversation.turns)


def read_one(tmp_path, example):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps(example))
    [found] = read(file)
    return found


def messages(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


ASKED = messages(("user", "Two and two?"))
SAID = messages(("assistant", "Four."))


@pytest.mark.parametrize(
    "example",
    [
        {"messages": ASKED + SAID},
        {"Prompt": "Two and two?", "Completion": "Four."},  # TRL, as a spreadsheet
        {"prompt": ASKED, "completion": SAID},  # TRL, conversational
        {"prompt": "Two and two?", "prompt_id": "7", "messages": ASKED + SAID},
        {"instruction": "Two and two?", "input": "", "output": "Four."},  # Alpaca
        {"instruction": "Two and two?", "context": None, "response": "Four."},  # Dolly
        {"question": "Two and two?", "answer": "Four."},
        {
            "conversations": [  # ShareGPT
                {"from": "human", "value": "Two and two?"},
                {"from": "gpt", "value": "Four."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Two and two?"}]},
                {"role": "assistant", "content": "Four."},
            ]
        },
        {"messages": SAID + ASKED + SAID},  # assistant first
        {"messages": [*ASKED, *SAID, *messages(("user", "And?"))]},
        {"messages": [*ASKED, *SAID, *messages(("user", "And?"), ("model", " \n"))]},
    ],
)
def test_formats_give_the_same_turns(tmp_path, example):
    assert turns(read_one(tmp_path, example)) == PAIR


@pytest.mark.parametrize(
    "example",
    [
        {"messages": messages(("system", "Be brief.")) + ASKED + SAID},
        {"messages": messages(("developer", "Be brief.")) + ASKED + SAID},
        {"system": "Be brief.", "prompt": "Two and two?", "answer": "Four."},
        {"instruction": "Be brief.", "input": "Two and two?", "output": "Four."},
        {"messages": messages(("user", "Be brief.")) + ASKED + SAID},  # two user turns
        {"messages": messages(("tool", "Be brief.")) + ASKED + SAID},
    ],
)
def test_what_comes_before_the_question_is_put_into_it(tmp_path, example):
    assert turns(read_one(tmp_path, example)) == FULL


def test_weights_and_plain_text(tmp_path):
    talk = [*ASKED, {**SAID[0], "weight": 0}, *ASKED, {**SAID[0], "weight": 1}]
    found = read_one(tmp_path, {"messages": talk})
    assert [turn.weight for turn in found.turns] == [0, 0, 0, 1]
    text = read_one(tmp_path, {"text": "x = 1\n"})
    assert (text.text, text.turns) == ("x = 1\n", ())
    assert read_one(tmp_path, {"prompt": "a", "answer": ""}).turns == ()
    assert read_one(tmp_path, {"prompt": "a", "answer": None, "output": "b"}).turns
    joined = read_one(tmp_path, {"messages": ASKED + SAID + SAID})
    assert joined.turns[1].content == "Four.\n\nFour."


def test_what_is_left_out_is_said(tmp_path):
    """Each turn of a conversation is learnt, context, or named here."""
    more = messages(("user", "And?"))
    empty = [*more, *messages(("model", " "))]
    for talk, left_out in [
        (ASKED + SAID, ()),
        (SAID + ASKED + SAID, (conversations.ANSWER_FIRST,)),
        (ASKED + SAID + more, (conversations.NO_ANSWER,)),
        (
            SAID + empty + ASKED + SAID + empty + more,
            (
                conversations.ANSWER_FIRST,
                conversations.EMPTY_ANSWER,
                conversations.EMPTY_ANSWER,
                conversations.NO_ANSWER,
            ),
        ),
    ]:
        found = read_one(tmp_path, {"messages": talk})
        assert found.left_out == left_out
        assert turns(found) == PAIR


EXAMPLES = [
    {"prompt": 'Zwei "und", zwei?\u2028', "answer": "Vier.\nJa."},
    {"prompt": "二", "answer": "4"},
]


def as_csv(delimiter):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["prompt", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(EXAMPLES)
    return out.getvalue()


def as_parquet():
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(EXAMPLES), out)
    return out.getvalue()


LINES = "\n".join(json.dumps(example, ensure_ascii=False) for example in EXAMPLES)
ARRAY = json.dumps(EXAMPLES, indent=2, ensure_ascii=False)


FILES = {
    "lines": ("a.jsonl", LINES.encode()),
    "lines of Windows": ("a.jsonl", LINES.replace("\n", "\r\n\r\n").encode()),
    "lines with a mark": ("a.jsonl", LINES.encode("utf-8-sig")),
    "array": ("a.json", ARRAY.encode()),
    "array in UTF-16": ("a.json", ARRAY.encode("utf-16")),
    "lines in UTF-16": ("a.json", LINES.encode("utf-16-le")),
    "csv": ("a.csv", as_csv(",").encode()),
    "tsv with a mark": ("a.tsv", as_csv("\t").encode("utf-8-sig")),
    "parquet": ("a.parquet", as_parquet()),
    "lines in gzip": ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
    "csv in gzip": ("a.csv.gz", gzip.compress(as_csv(",").encode(), mtime=0)),
    "gzip without a suffix": ("no suffix", gzip.compress(ARRAY.encode(), mtime=0)),
}


@pytest.mark.parametrize(("name", "data"), FILES.values(), ids=FILES)
def test_files(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    found = [conversation.turns for conversation in read(tmp_path / name)]
    assert [(q.content, a.content) for q, a in found] == [
        (example["prompt"], example["answer"]) for example in EXAMPLES
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.jsonl",
            b'{"prompt": 1}\n{',
            r"a\.jsonl, line 1 has the columns \['prompt'\]",
        ),
        ("a.jsonl", b'\n\n{"x"', r"a\.jsonl, line 3: no JSON"),
        ("a.jsonl", b"[1]", r"line 1: an example must be an object"),
        ("a.json", b'[\n{"text": "a"},\n{"text": }]', r"a\.json, line 3: no JSON"),
        ("a.json", b'[\n{"text": "a"}\n', r"line 3: no JSON list"),
        ("a.jsonl", b'{"text": "a"}\n\xff\xfe\xfd', r"line 2: no UTF-8 text"),
        ("a.csv", b"prompt,answer\na,b\n1,2,3\n", r"a\.csv, line 3: 3 fields"),
        ("a.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-4], r"damaged gzip"),
        ("a.parquet", b"PAR1 nothing", r"damaged Parquet"),
        ("a.jsonl", b'{"messages": "hi"}', r"'messages' must be a list"),
        ("a.jsonl", b'{"messages": [{"role": "boss"}]}', r"messages\[0\] has the role"),
        (
            "a.jsonl",
            b'{"prompt": ["a"], "answer": "b"}',
            r"prompt\[0\] must be an object",
        ),
        ("a.jsonl", b'{"prompt": {}, "answer": "b"}', r"'prompt' must be text"),
        ("a.jsonl", b'{"prompt": "\\ud800", "answer": "b"}', r"surrogate"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}',
            r"messages\[0\] has a part that is no text",
        ),
        (
            "a.jsonl",
            b'{"messages": [{"role": "assistant", "tool_calls": [{}]}]}',
            r"calls a tool",
        ),
        (
            "a.jsonl",
            b'{"messages": [{"role": "model", "content": "a", "weight": "b"}]}',
            r"the weight 'b'",
        ),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_line(
    tmp_path, name, data, message
):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path / name))
