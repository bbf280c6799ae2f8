"""The turn format on text: messages to parts and back, and which parts are answers.

    <start_of_turn>user↵QUESTION<end_of_turn>↵<start_of_turn>model↵ANSWER<end_of_turn>↵

A part that is a `Control` becomes one control token; text never does (see `fim`). The
answer is what the model must learn: the text after `model↵` and the `<end_of_turn>` that
ends it, by which it learns to stop. White space around a message is cut off, as Gemma's
own template does it; tests compare the two.

Gemma was trained on no system turn. Leading messages of role `"system"` or `"developer"`
are therefore folded into the first user message, with an empty line between, as is usual;
they then are user text, and `parse` gives them back as such.

That is the format `"gemma"`. Models of another origin may have been taught other names of
the roles, and a system turn: see `Format`.

Left out: tools and images, for which CodeGemma has no turns.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from codegemma_keras.fim import END, PAD, START, Control

START_OF_TURN = Control("<start_of_turn>")
END_OF_TURN = Control("<end_of_turn>")
USER, MODEL, SYSTEM = "user", "model", "system"
# What other libraries call the roles.
ROLES = {
    "user": USER,
    "model": MODEL,
    "assistant": MODEL,
    "system": SYSTEM,
    "developer": SYSTEM,
}
TOOLS = ("tool", "function", "ipython")


@dataclasses.dataclass(frozen=True)
class Format:
    """How turns are written.

    Attributes:
        model: what the model's role is called in a prompt.
        has_system: whether there is a system turn; if not, a system message is folded
            into the first user message.
        system: the system message where a conversation has none; None: no turn for it.

    Examples:
        >>> FORMATS["gemma"]
        Format(model='model', has_system=False, system=None)
    """

    model: str = MODEL
    has_system: bool = False
    system: str | None = None


FORMATS = {
    "gemma": Format(),
    "smollm2": Format(
        model="assistant",
        has_system=True,
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    ),
}

Message = Mapping[str, str]


def render(
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    chat_format: str = "gemma",
    *,
    goes_on: bool = False,
) -> list[tuple[str | Control, bool]]:
    r"""A conversation as parts, each with whether it belongs to an answer.

    Args:
        messages: `{"role": "user" | "model", "content": str}` in turn, user first;
            `"assistant"` means `"model"`. Messages of role `"system"` or `"developer"`
            may lead: they are folded into the first user message.
        add_generation_prompt: end with `<start_of_turn>model↵`, so that the model
            answers next. The last message must then be the user's.
        chat_format: one of `FORMATS`.
        goes_on: whether other turns stand before these, so that the format's own system
            message does not.

    Returns:
        `(part, is_answer)` pairs; bos is not among them. An empty message of the model
        is no answer: nobody wants a model to learn to say nothing.

    Raises:
        TypeError: messages that are no list of mappings to strings.
        ValueError: no message; roles that are unknown or do not alternate.

    Examples:
        >>> parts = render(
        ...     [{"role": "user", "content": "Hi"}], add_generation_prompt=True
        ... )
        >>> [part for part, is_answer in parts]
        [Control('<start_of_turn>'), 'user\n', 'Hi', Control('<end_of_turn>'), '\n',
         Control('<start_of_turn>'), 'model\n']
    """
    turns, form = normalize(messages, chat_format), FORMATS[chat_format]
    if form.system is not None and turns[0][0] != SYSTEM and not goes_on:
        turns.insert(0, (SYSTEM, form.system))
    if add_generation_prompt and turns[-1][0] == MODEL:
        raise ValueError(
            "add_generation_prompt=True, but the last message is the model's: nothing "
            "is left to answer. Append a user message."
        )
    parts = []
    for role, content in turns:
        name = form.model if role == MODEL else role
        parts += [(START_OF_TURN, False), (name + "\n", False)]
        answer = role == MODEL and content != ""
        parts += [(content, answer), (END_OF_TURN, answer), ("\n", False)]
    if add_generation_prompt:
        parts += [(START_OF_TURN, False), (form.model + "\n", False)]
    return parts


def normalize(
    messages: Sequence[Message], chat_format: str = "gemma"
) -> list[tuple[str, str]]:
    """Messages as alternating `(role, content)`: trimmed, system messages folded in.

    In a format that has a system turn, they become one, which leads.

    Raises: as `render`.

    Examples:
        >>> answer = {"role": "assistant", "content": "Yes?"}
        >>> normalize([{"role": "user", "content": " Hi "}, answer])
        [('user', 'Hi'), ('model', 'Yes?')]
    """
    if isinstance(messages, (str, bytes, Mapping)):
        raise TypeError(
            f"messages must be a list of messages, not {type(messages).__name__}. Wrap "
            'it: [{"role": "user", "content": "..."}].'
        )
    turns = [_turn(message, place) for place, message in enumerate(messages)]
    if not turns:
        raise ValueError("messages is empty. Give at least one user message.")
    leading = list(itertools.takewhile(lambda turn: turn[0] == SYSTEM, turns))
    first = len(leading)  # the place of the first turn, for errors
    turns = turns[first:]
    if leading:
        if not turns or turns[0][0] != USER:
            raise ValueError(
                "CodeGemma has no system turn: a system message is put before the first "
                "user message, so a user message must follow it."
            )
        has_system = FORMATS[chat_format].has_system
        folded = [*leading, *([] if has_system else turns[:1])]
        folded = "\n\n".join(content for _, content in folded if content)
        if not has_system:
            turns[0] = USER, folded
    for place, (role, _) in enumerate(turns):
        if role == SYSTEM:
            raise ValueError(
                f"Message {first + place} is a system message after others; CodeGemma "
                "has no system turn, so it may only lead. Make it part of a user message."
            )
        if role != (MODEL if place % 2 else USER):
            raise ValueError(_out_of_turn(first + place, role, place == 0))
    if leading and has_system and folded:
        turns.insert(0, (SYSTEM, folded))
    return turns


def _out_of_turn(place, role, leads):
    if leads:
        return (
            f"Message {place} is the model's, but a conversation begins with the user. "
            "Leave it out, or put the user message before it that it answers."
        )
    return (
        f"Messages {place - 1} and {place} both have role {role!r}, but user and model "
        "take turns. Join the two, for example with an empty line between."
    )


def _turn(message, place):
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise TypeError(
            f'Message {place} must be {{"role": ..., "content": ...}}, but is '
            f"{message!r:.80}."
        )
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or role not in ROLES:
        tools = (
            " A tool's answer can be given as a user message." if role in TOOLS else ""
        )
        raise ValueError(
            f"Message {place} has role {role!r}; known are {', '.join(ROLES)}.{tools}"
        )
    if not isinstance(content, str):
        raise TypeError(
            f"Message {place} has content of type {type(content).__name__}; it must be "
            "a str."
        )
    return ROLES[role], str(content).strip()


def parse(parts: Iterable[str | Control]) -> list[dict[str, str]]:
    """Messages of a rendered conversation; the inverse of `render`.

    Bos, padding and eos around it are skipped. A generation prompt at the end, and an
    answer cut short, give a last message of the model as far as it goes.

    Args:
        parts: the first elements of `render`'s pairs, or `tokenizer.decode_parts(ids)`.

    Raises:
        ValueError: the parts are no rendered conversation.

    Examples:
        >>> parse([part for part, _ in render([{"role": "user", "content": "Hi"}])])
        [{'role': 'user', 'content': 'Hi'}]
    """
    messages, text, in_turn, place = [], "", False, 0
    for place, part in enumerate(parts):
        if not isinstance(part, Control):
            text += part
        elif part in (START, END, PAD):
            continue
        elif part == START_OF_TURN and not in_turn:
            _check_between(text, bool(messages), place)
            text, in_turn = "", True
        elif part == END_OF_TURN and in_turn:
            messages.append(_message(text, place))
            text, in_turn = "", False
        else:
            raise ValueError(f"Part {place}, {part!r}, is out of place in a chat.")
    if in_turn:
        messages.append(_message(text, place))
    else:
        _check_between(text, bool(messages), place)
    return messages


def _check_between(text, after_turn, place):
    if text not in (("\n", "") if after_turn else ("",)):
        raise ValueError(f"Text between turns, before part {place}: {text!r:.80}.")


def _message(text, place):
    role, newline, content = text.partition("\n")
    role = ROLES.get(role)
    if not newline or role is None:
        raise ValueError(
            f"The turn that ends at part {place} starts with {text!r:.40}, not with a "
            "role and a newline."
        )
    return {"role": role, "content": content}
