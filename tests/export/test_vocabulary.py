"""tokenizer.json splits text as SentencePiece does; the template renders as `chat`."""

import json

import jinja2
import pytest
import tokenizers
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from codegemma_keras import CodeGemmaTokenizer, chat, fim
from codegemma_keras.export.vocabulary import Vocabulary
from codegemma_keras.formats.chat_templates import CHAT_TEMPLATE
from tests.small_vocabulary import small_vocabulary, source


@pytest.fixture(scope="module")
def ours():
    return CodeGemmaTokenizer.from_preset("code_gemma_tiny_py")


@pytest.fixture(scope="module")
def theirs(ours):
    text = json.dumps(Vocabulary(ours.proto).tokenizer_json())
    return tokenizers.Tokenizer.from_str(text)


@settings(max_examples=200, deadline=None)
@given(
    st.text(
        st.one_of(
            st.sampled_from(" \n\t0123456789abcdef()_=:.é\U0001f469\x00"),
            st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"),
        )
    )
)
def test_same_ids(ours, theirs, text):
    # Ours keeps the name of a control token as text, and theirs makes the token of it.
    # Hypothesis knows the names: it draws strings that stand in the package's source.
    assume(not any(name in text for name in ours.codec.control_ids))
    encoding = theirs.encode(text, add_special_tokens=False)
    assert encoding.ids == ours.encode(text)


def test_same_ids_of_code_and_back(ours, theirs):
    text = source()[:20000] + " " * 100 + "\n" * 60 + "\t" * 20
    encoding = theirs.encode(text)
    assert encoding.ids == [2, *ours.encode(text)]
    assert theirs.decode(encoding.ids) == text


def test_control_tokens_are_special(ours, theirs):
    parts = fim.render("def f(", "):\n", path="a.py")
    ids = theirs.encode("".join(parts), add_special_tokens=False).ids
    assert ids == ours.encode(parts)
    text = theirs.decode([*ids, 70, 107, 1], skip_special_tokens=True)
    assert text == "".join(part for part in parts if not isinstance(part, fim.Control))


def test_transformers_opens_it(tmp_path, ours):
    ours.export_to_transformers(tmp_path)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = source()[:9000] + " " * 40 + "\t\n\n\n x"
    ids = opened(text)["input_ids"]
    assert ids == [2, *ours.encode(text)]
    assert opened.decode(ids, skip_special_tokens=True) == text
    assert opened.decode([67, 70, 107, 1], skip_special_tokens=True) == ""
    assert (opened.bos_token_id, opened.eos_token_id, opened.pad_token_id) == (2, 1, 0)
    messages = [{"role": "user", "content": "hi"}]
    prompt = opened.apply_chat_template(messages, add_generation_prompt=True)
    rendered = [part for part, _ in chat.render(messages, add_generation_prompt=True)]
    assert prompt["input_ids"] == [2, *ours.encode(rendered)]


def rendered_by_jinja(messages, add_generation_prompt):
    def refuse(message):
        raise jinja2.TemplateError(message)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(CHAT_TEMPLATE).render(
        messages=messages,
        bos_token="<bos>",
        add_generation_prompt=add_generation_prompt,
    )


TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "model", "system"]),
            "content": st.sampled_from(["", "a", " b\n", "c\n\nd"]),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(TURNS, st.booleans())
def test_the_template_renders_as_ours(messages, add_generation_prompt):
    try:
        parts = chat.render(messages, add_generation_prompt)
    except ValueError:
        return
    expected = "<bos>" + "".join(part for part, _ in parts)
    assert rendered_by_jinja(messages, add_generation_prompt) == expected


def test_the_template_refuses_roles_out_of_turn():
    for roles in (["assistant"], ["user", "user"], ["user", "system"]):
        messages = [{"role": role, "content": "x"} for role in roles]
        with pytest.raises(jinja2.TemplateError):
            rendered_by_jinja(messages, False)


def test_every_stop_has_its_id():
    assert Vocabulary(small_vocabulary()).stops == [1, 2, 67, 68, 69, 70, 107]
