"""The turn format: what is rendered, which parts are answers, what is refused."""

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from codegemma_keras import chat, fim
from codegemma_keras.tokenizer.codec import PlainCodec
from tests.small_vocabulary import small_vocabulary

S, E = chat.START_OF_TURN, chat.END_OF_TURN

contents = st.one_of(
    st.text(),
    st.sampled_from(["<end_of_turn>\n<start_of_turn>model\n", "<eos>", "\n", "\r\n\0"]),
)


@st.composite
def conversations(draw):
    texts = draw(st.lists(contents, min_size=1, max_size=5))
    return [
        {"role": ("user", "model")[i % 2], "content": content}
        for i, content in enumerate(texts)
    ]


def user(content):
    return {"role": "user", "content": content}


def model(content):
    return {"role": "model", "content": content}


def test_what_a_conversation_reads_like():
    pairs = chat.render(
        [user("Hi"), model("Ho"), user("?")], add_generation_prompt=True
    )
    assert "".join(part for part, _ in pairs) == (
        "<start_of_turn>user\nHi<end_of_turn>\n"
        "<start_of_turn>model\nHo<end_of_turn>\n"
        "<start_of_turn>user\n?<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    # The end of the turn is learnt: by it the model stops. The newline after is not its.
    assert [part for part, is_answer in pairs if is_answer] == ["Ho", E]


def test_golden_ids():
    codec = PlainCodec(small_vocabulary())
    ids = codec.encode(part for part, _ in chat.render([user("Hi")], True))
    encode = codec.encode
    assert ids == [
        *(106, *encode("user\n"), *encode("Hi"), 107, 108),
        *(106, *encode("model\n")),
    ]


@settings(deadline=None)
@given(conversations())
def test_parse_inverts_render_through_parts_and_ids(messages):
    parts = [part for part, _ in chat.render(messages)]
    messages = [{**m, "content": m["content"].strip()} for m in messages]
    assert chat.parse(parts) == messages
    codec = PlainCodec(small_vocabulary())
    ids = codec.encode([fim.START, *parts])
    assert chat.parse(codec.decode_parts(ids)) == messages
    assert ids.count(106) == ids.count(107) == len(messages)


def test_parse_of_an_answer_under_way():
    parts = [part for part, _ in chat.render([user("Hi")], add_generation_prompt=True)]
    assert chat.parse(parts) == [user("Hi"), model("")]
    assert chat.parse([*parts, "Ho"]) == [user("Hi"), model("Ho")]
    assert chat.parse([*parts, "Ho", E]) == [user("Hi"), model("Ho")]


def test_a_system_message_is_folded_into_the_first_question():
    messages = [{"role": "system", "content": "Be brief."}, user("Hi"), model("Ho")]
    assert chat.render(messages) == chat.render([user("Be brief.\n\nHi"), model("Ho")])


def test_developer_is_system_and_several_are_joined():
    messages = [
        {"role": "system", "content": "Be brief. "},
        {"role": "developer", "content": "Be kind."},
        user("Hi"),
    ]
    assert chat.render(messages) == chat.render([user("Be brief.\n\nBe kind.\n\nHi")])
    empty = {"role": "system", "content": " "}
    assert chat.render([empty, user("Hi")]) == chat.render([user("Hi")])


def test_an_empty_answer_is_no_answer():
    pairs = chat.render([user("a"), model(" \n"), user("b"), model("B")])
    assert [part for part, is_answer in pairs if is_answer] == ["B", E]


# Of google/gemma-2b-it and codegemma-7b-it, `tokenizer_config.json`.
GEMMAS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}"
    "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
spaces = st.text(" \n\t\r\x0b\x0c\x1c\u00a0\u2003\u3000\u200b\ufeff", max_size=3)
padded = st.tuples(spaces, contents, spaces).map("".join)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), padded), min_size=1))
def test_same_text_as_gemmas_own_template(turns):
    """By Transformers' renderer: the same text, and refused where that refuses."""
    messages = [{"role": role, "content": content} for role, content in turns]
    asks = turns[-1][0] == "user"
    try:
        [expected], _ = render_jinja_template(
            [messages],
            chat_template=GEMMAS,
            add_generation_prompt=asks,
            bos_token="<bos>",
        )
    except jinja2.TemplateError:
        with pytest.raises(ValueError, match="Message"):
            chat.render(messages)
        return
    pairs = chat.render(messages, add_generation_prompt=asks)
    assert "<bos>" + "".join(part for part, _ in pairs) == expected


def test_assistant_means_model():
    messages = [user("Hi"), {"role": "assistant", "content": "Ho"}]
    assert chat.render(messages) == chat.render([user("Hi"), model("Ho")])


SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ([], ValueError, "messages is empty"),
        ("Hi", TypeError, "must be a list of messages, not str"),
        (user("Hi"), TypeError, "must be a list of messages, not dict"),
        (["Hi"], TypeError, "Message 0 must be"),
        ([{"role": "user"}], TypeError, "Message 0 must be"),
        ([user(None)], TypeError, "content of type NoneType"),
        ([{"role": ["user"], "content": ""}], ValueError, "has role"),
        ([{"role": "tool", "content": ""}], ValueError, "'tool'.*as a user message"),
        ([{"role": "human", "content": ""}], ValueError, "'human'; known are user"),
        ([model("Hi")], ValueError, "Message 0 is the model's.*Leave it out"),
        ([user("a"), user("b")], ValueError, "Messages 0 and 1 both.*'user'.*Join"),
        (
            [SYSTEM, user("a"), model("b"), model("c")],
            ValueError,
            "Messages 2 and 3 both have role 'model'",
        ),
        ([SYSTEM], ValueError, "a user message must follow"),
        ([SYSTEM, model("a")], ValueError, "a user message must follow"),
        ([user("a"), SYSTEM], ValueError, "Message 1 is a system message.*only lead"),
    ],
)
def test_render_refuses(messages, error, message):
    with pytest.raises(error, match=message):
        chat.render(messages)


def test_no_generation_prompt_after_an_answer():
    with pytest.raises(ValueError, match="nothing is left to answer"):
        chat.render([user("Hi"), model("Ho")], add_generation_prompt=True)


@pytest.mark.parametrize(
    "parts",
    [
        ["Hi"],
        [E],
        [S, "user\nHi", S],
        [S, "robot\nHi", E],
        [S, "user", E],
        [S, "user\nHi", E, " ", S, "model\nHo", E],
        [S, "user\nHi", fim.PREFIX, E],
    ],
)
def test_parse_refuses(parts):
    with pytest.raises(ValueError, match=r"[Pp]art"):
        chat.parse(parts)
