"""The turn format on text: messages to parts and back, and which parts are answers.

    <start_of_turn>user↵QUESTION<end_of_turn>↵<start_of_turn>model↵ANSWER<end_of_turn>↵

A part that is a `Control` becomes one control token; text never does (see `fim`). The
answer is what the model must learn: the text after `model↵` and the `<end_of_turn>` that
ends it, by which it learns to stop.

Gemma was trained on no system turn. A leading message of role `"system"` is therefore
folded into the first user message, with an empty line between, as is usual; it then is
user text, and `parse` gives it back as such. Left out: tools and images.
"""

from collections.abc import Iterable, Mapping, Sequence

from codegemma_keras.fim import END, PAD, START, Control

START_OF_TURN = Control("<start_of_turn>")
END_OF_TURN = Control("<end_of_turn>")
USER, MODEL, SYSTEM = "user", "model", "system"

Message = Mapping[str, str]


def render(
    messages: Sequence[Message], add_generation_prompt: bool = False
) -> list[tuple[str | Control, bool]]:
    """A conversation as parts, each with whether it belongs to an answer.

    Args:
        messages: `{"role": "user" | "model", "content": str}` in turn, user first;
            `"assistant"` means `"model"`. One `"system"` message may lead: it is folded
            into the first user message.
        add_generation_prompt: end with `<start_of_turn>model↵`, so that the model
            answers next. The last message must then be the user's.

    Returns:
        `(part, is_answer)` pairs; bos is not among them.

    Raises:
        TypeError: messages that are no list of mappings to strings.
        ValueError: no message; roles that are unknown or do not alternate.
    """
    turns = normalize(messages)
    if add_generation_prompt and turns[-1][0] == MODEL:
        raise ValueError(
            "add_generation_prompt=True, but the last message is the model's: nothing "
            "is left to answer. Append a user message."
        )
    parts = []
    for role, content in turns:
        parts += [(START_OF_TURN, False), (role + "\n", False)]
        answer = role == MODEL
        parts += [(content, answer), (END_OF_TURN, answer), ("\n", False)]
    if add_generation_prompt:
        parts += [(START_OF_TURN, False), (MODEL + "\n", False)]
    return parts


def normalize(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Messages as alternating `(role, content)`, the system message folded in.

    Raises: as `render`.
    """
    if isinstance(messages, (str, bytes, Mapping)):
        raise TypeError(
            f"messages must be a list of messages, not {type(messages).__name__}. Wrap "
            'it: [{"role": "user", "content": "..."}].'
        )
    turns = [_turn(message, place) for place, message in enumerate(messages)]
    if turns and turns[0][0] == SYSTEM:
        if len(turns) == 1 or turns[1][0] != USER:
            raise ValueError(
                "CodeGemma has no system turn: a system message is put before the first "
                "user message, so a user message must follow it."
            )
        (_, system), (_, question), *rest = turns
        turns = [(USER, f"{system}\n\n{question}"), *rest]
    if not turns:
        raise ValueError("messages is empty. Give at least one user message.")
    for place, (role, _) in enumerate(turns):
        expected = MODEL if place % 2 else USER
        if role != expected:
            raise ValueError(
                f"Turn {place} has role {role!r}, but must have {expected!r}: user and "
                "model alternate, the user first. Join messages of one role with a "
                "newline; a system message may only lead."
            )
    return turns


def _turn(message, place):
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise TypeError(
            f'Message {place} must be {{"role": ..., "content": ...}}, but is '
            f"{message!r:.80}."
        )
    role, content = message["role"], message["content"]
    if role == "assistant":  # what other libraries call it
        role = MODEL
    if role not in (USER, MODEL, SYSTEM):
        raise ValueError(
            f"Message {place} has role {role!r}; known are 'user', 'model' (or "
            "'assistant') and a leading 'system'."
        )
    if not isinstance(content, str):
        raise TypeError(
            f"Message {place} has content of type {type(content).__name__}; it must be "
            "a str."
        )
    return role, str(content)


def parse(parts: Iterable[str | Control]) -> list[dict[str, str]]:
    """Messages of a rendered conversation; the inverse of `render`.

    Bos, padding and eos around it are skipped. A generation prompt at the end, and an
    answer cut short, give a last message of the model as far as it goes.

    Args:
        parts: the first elements of `render`'s pairs, or `tokenizer.decode_parts(ids)`.

    Raises:
        ValueError: the parts are no rendered conversation.
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
    if not newline or role not in (USER, MODEL):
        raise ValueError(
            f"The turn that ends at part {place} starts with {text!r:.40}, not with a "
            "role and a newline."
        )
    return {"role": role, "content": content}
