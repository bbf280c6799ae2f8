"""The turn format: what is rendered, which parts are answers, what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras import chat, fim
from codegemma_keras.tokenizer.tokenizer import PlainCodec
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
        ([{"role": "tool", "content": ""}], ValueError, "has role 'tool'; known are"),
        ([model("Hi")], ValueError, "Turn 0 has role 'model', but must have 'user'"),
        ([user("a"), user("b")], ValueError, "Turn 1 has role 'user', but must have"),
        ([SYSTEM], ValueError, "a user message must follow"),
        ([SYSTEM, model("a")], ValueError, "a user message must follow"),
        ([user("a"), SYSTEM], ValueError, "a system message may only lead"),
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
