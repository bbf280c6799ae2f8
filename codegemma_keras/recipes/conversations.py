"""Conversations from the files that people have, in one form.

    for conversation in read("chats.jsonl"):
        conversation.turns      # [Turn("user", "...", 0.0), Turn("model", "...", 1.0), ...]

Formats of an example, by its columns (names in any case):

    messages                         of {"role", "content"}; also TRL's and OpenAI's
    conversations                    of {"from", "value"}: ShareGPT
    prompt, completion               texts or lists of messages: TRL
    prompt, answer | response | output
    instruction, input, output       Alpaca;  instruction, context, response: Dolly
    question, answer
    text                             TRL's plain text: all of it is learnt

and a `system` column beside any of the pairs. Files: JSON lines, a JSON array, CSV, TSV
and Parquet; compressed with gzip or not; UTF-8 with or without a byte order mark, UTF-16.
What a file is, is seen from its content, except CSV and TSV, which have their suffix.

Gemma knows two roles that alternate, the user first. What differs is brought to that
form: system and developer messages are put before the next user message; a tool's result
is user text; messages of one role in a row are joined by an empty line. An answer before
the first question is left out, and so is a question that has no answer or an empty one;
`Conversation.left_out` says so. An example that cannot be understood raises and names the
file and the line.

Left out: images, and calls of tools that are not in the text.
"""

import csv
import dataclasses
import gzip
import io
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping

from codegemma_keras.chat import MODEL, USER

MESSAGES = ("messages", "conversations", "conversation", "dialog")
QUESTIONS = ("prompt", "instruction", "question", "query")
MORE = ("input", "context")  # of a question: Alpaca's and Dolly's
ANSWERS = ("completion", "answer", "response", "output")
SYSTEMS = ("system", "system_prompt")
ROLES = {
    "user": USER,
    "human": USER,
    "tool": USER,
    "function": USER,
    "observation": USER,
    "model": MODEL,
    "assistant": MODEL,
    "gpt": MODEL,
    "bot": MODEL,
    "system": "system",
    "developer": "system",
}
# What is left out of a conversation.
ANSWER_FIRST = "answers before the first question"
EMPTY_ANSWER = "questions whose answer is empty"
NO_ANSWER = "questions without an answer"


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one side says.

    Attributes:
        role: `"user"` or `"model"`.
        content: the text; never blank in an answer.
        weight: of the answer's tokens in the loss; 0 for the user's.
    """

    role: str
    content: str
    weight: float


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One example.

    Attributes:
        turns: user and model in turn, the user first, an answer last. Empty where nothing
            was left to learn.
        text: plain text to learn instead of turns, or None.
        where: file and line or row, for messages.
        left_out: what of the example is not in `turns`, one reason for each thing.
    """

    turns: tuple[Turn, ...]
    text: str | None
    where: str
    left_out: tuple[str, ...] = ()


def read(file) -> Iterator[Conversation]:
    """The conversations of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a Parquet file, and pyarrow is not installed.
        ValueError: the file or an example cannot be understood; the line is named.
    """
    for where, example in _examples(pathlib.Path(file).expanduser()):
        yield _conversation(example, where)


# --- Files to examples --------------------------------------------------------------


def _examples(file):
    """`(where, example)` of a file, the example as a dictionary or what stands there."""
    data = file.read_bytes()
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise ValueError(f"{file} is a damaged gzip file: {error}.") from None
    if data[:4] == b"PAR1":
        yield from _parquet(file, data)
        return
    text = _text(file, data)
    if ".csv" in suffixes or ".tsv" in suffixes:
        yield from _csv(file, text, "\t" if ".tsv" in suffixes else ",")
    elif text.lstrip()[:1] == "[":
        yield from _json_array(file, text)
    else:
        yield from _json_lines(file, text)


def _text(file, data):
    """The text of a file, by its byte order mark or as UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in data[:4]:  # no mark, but ASCII characters of two bytes
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file}, line {line}: no {encoding.removesuffix('-sig').upper()} text "
            f"({error.reason}). Save the file as UTF-8."
        ) from None


def _json_lines(file, text):
    # Not splitlines(), which would cut a text at U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{file}, line {number}", json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{file}, line {number}: no JSON ({error}). Each line must be one "
                "example, or the whole file one list of them."
            ) from None


def _json_array(file, text):
    decoder = json.JSONDecoder()
    place, line, seen = text.index("[") + 1, 1, 0
    first = True
    while True:
        place = _skip(text, place)
        if not first and text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif not first and text[place : place + 1] != "]":
            raise ValueError(
                f"{file}, line {text.count(chr(10), 0, place) + 1}: no JSON list (a comma "
                "or a closing bracket is missing)."
            )
        line += text.count("\n", seen, place)
        seen = place
        if text[place : place + 1] == "]":
            return
        try:
            example, place = decoder.raw_decode(text, place)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{file}, line {line}: no JSON ({error}).") from None
        yield f"{file}, line {line}", example
        first = False


def _skip(text, place):
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _csv(file, text, delimiter):
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a field may be a whole file
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise ValueError(
                        f"{file}, line {line}: {len(row)} fields, and the first line "
                        f"names {len(header)} columns."
                    )
                yield f"{file}, line {line}", dict(zip(header, row, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}.") from None


def _parquet(file, data):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            f"{file} is a Parquet file, which needs pyarrow: pip install pyarrow."
        ) from None
    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        number = 0
        for batch in table.iter_batches():
            for example in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", example
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} is a damaged Parquet file: {error}.") from None


# --- Examples to conversations ------------------------------------------------------


def _conversation(example, where):
    if not isinstance(example, Mapping):
        raise ValueError(
            f"{where}: an example must be an object with columns, and is "
            f"{type(example).__name__}."
        )
    columns = {str(name).strip().lower(): value for name, value in example.items()}
    columns = {name: value for name, value in columns.items() if value is not None}
    messages = _messages(columns, where)
    if messages is None:
        return Conversation((), _string(columns["text"], where, "text"), where)
    turns, left_out = _turns(messages, where)
    return Conversation(tuple(turns), None, where, tuple(left_out))


def _messages(columns, where):
    """`(role, content, weight)` of an example; None if it is plain text."""
    system = next((columns[name] for name in SYSTEMS if name in columns), "")
    before = [("system", _string(system, where, "system"), 1.0)] if system else []
    for name in MESSAGES:
        if name in columns:
            return before + _listed(columns[name], where, name)
    question = next((name for name in QUESTIONS if name in columns), None)
    answer = next((name for name in ANSWERS if name in columns), None)
    if question and answer:
        asked = _side(columns[question], USER, where, question)
        more = [name for name in MORE if str(columns.get(name, "")).strip()]
        for name in more:  # "instruction" and "input" make one question
            asked.append((USER, _string(columns[name], where, name), 1.0))
        return before + asked + _side(columns[answer], MODEL, where, answer)
    if "text" in columns:
        return None
    raise ValueError(
        f"{where} has the columns {sorted(columns)}. It must have 'messages', or a "
        f"question ({', '.join(QUESTIONS)}) and an answer ({', '.join(ANSWERS)}), or "
        "'text'."
    )


def _side(value, role, where, name):
    """One half of a pair: a text, or TRL's list of messages."""
    if isinstance(value, list):
        return _listed(value, where, name)
    return [(role, _string(value, where, name), 1.0)]


def _listed(value, where, name):
    if isinstance(value, str) and value.lstrip()[:1] == "[":  # a field of a CSV file
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{where}: {name!r} is no JSON list ({error}).") from None
    if not isinstance(value, list):
        raise ValueError(
            f"{where}: {name!r} must be a list of messages, and is "
            f"{type(value).__name__}."
        )
    return [
        _message(message, f"{where}: {name}[{i}]") for i, message in enumerate(value)
    ]


def _message(message, where):
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} must be an object with role and content.")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role.strip().lower() not in ROLES:
        raise ValueError(
            f"{where} has the role {role!r}; known are {', '.join(ROLES)}."
        )
    content = message.get("content", message.get("value"))
    if content is None and message.get("tool_calls"):
        raise ValueError(
            f"{where} calls a tool and has no text. CodeGemma has no turn for that: write "
            "the call into 'content'."
        )
    weight = message.get("weight")
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight < 0:
        raise ValueError(f"{where} has the weight {weight!r}; give 0, 1 or a number.")
    return ROLES[role.strip().lower()], _content(content, where), float(weight)


def _content(content, where):
    """The text of a message, which may come as a list of parts."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return _string(content, where, "content")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else None
        if isinstance(part, Mapping) and part.get("type", "text") == "text":
            text = part.get("text")
        if not isinstance(text, str):
            raise ValueError(f"{where} has a part that is no text: {part!s:.60}.")
        texts.append(text)
    return _string("".join(texts), where, "content")


def _string(value, where, name):
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name!r} must be text, and is {value!r:.60}.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(
            f"{where}: {name!r} has half of a surrogate pair, which is no character."
        )
    return value


def _turns(messages, where):
    """`(turns, left_out)`: alternating turns, the user first and an answer last."""
    joined = _joined(messages, where)
    turns, left_out = [], []
    if joined and joined[0].role == MODEL:
        joined = joined[1:]
        left_out.append(ANSWER_FIRST)
    for question, answer in zip(joined[::2], joined[1::2], strict=False):
        if answer.content.strip():
            turns += question, answer
        else:
            left_out.append(EMPTY_ANSWER)
    if len(joined) % 2:
        left_out.append(NO_ANSWER)
    return turns, left_out


def _joined(messages, where):
    """Messages as alternating turns; those of one side in a row are one."""
    joined = []
    for role, content, weight in messages:
        side = MODEL if role == MODEL else USER
        if not content.strip() and side == USER:
            continue
        if side == USER:
            weight = 0.0
        if joined and joined[-1].role == side:
            last = joined.pop()
            if last.weight != weight:
                raise ValueError(
                    f"{where} has two answers in a row with the weights {last.weight:g} "
                    f"and {weight:g}; they are learnt as one and need one weight."
                )
            texts = [text for text in (last.content, content) if text.strip()]
            content = "\n\n".join(texts)
        joined.append(Turn(side, content, weight))
    return joined
