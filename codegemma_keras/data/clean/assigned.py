"""Secrets that are told by what they are given to: `password = "..."`, a header, a URL.

Whether a value is a secret is guessed from its characters: random ones have more bits
each than words and names have. What names a hash, a file or an environment variable is
none.
"""

import re
from collections.abc import Iterator

from codegemma_keras.data.clean.shapes import entropy

# Bits per character. Random base64 of 20 characters has 4.0 and random hex 3.2 on
# average; words and identifiers stay below 3.6 at that length.
MIN_ENTROPY = 3.0
MIN_SECRET = 12
# A password is chosen, and may be short.
MIN_PASSWORD = 6

# Where a name may sound secret: of these, in lower case, the text is searched first.
_STEM = re.compile(r"secret|token|passw|passphrase|pwd|credential|bearer|webhook|key")
# A key is one if this stands before it.
_KIND_OF_KEY = re.compile(
    r"(?:api|auth|access|account|private|client|encryption|signing|master|app|shared|secret"
    r"|license|deploy|service|storage)[_-]?$"
)
# `token: str = b"..."`, `"token": "..."`, `#define TOKEN "..."`, `token := ...`,
# `const TOKEN: &str = "..."`, `setToken("...")`, `("token", "...")`, `token == "..."`.
_QUOTED = re.compile(
    r"[\w.\[\]-]{0,50}['\"]?[\])]?"
    r"(?:\s{0,4}:\s{0,4}&?(?:'static )?[\w.<>\[\]|?]{1,30}(?=\s{0,4}=))?"
    r"(?:\s{0,4}(?:[:=!]?==?>?|[:,(])\s{0,4}|[ \t]{1,8})"
    r"(?:\[\]byte\(\s{0,4})?[rbufRBUF@$&L]{0,2}(?P<quote>[\"'`])(?P<value>[^\"'`\s\\]{6,200})(?P=quote)"
)
# `export API_KEY=...`, `api_key: ...`, `?token=...`: random characters up to a delimiter.
_BARE = re.compile(
    r"[\w.-]{0,40}[ \t]{0,4}(?::=|[=:])[ \t]{0,4}"
    r"(?P<value>[\w+/~.!@#$%^*-]{12,200}={0,2})(?=[\s;&,'\"<)\]}\\|]|\Z)"
)
_HEADER = re.compile(
    r"(?:\b(?P<scheme>bearer|basic)[ \t]+"
    r"|\bauthorization['\"]?[ \t]*[:=,][ \t]*['\"]?token[ \t]+"
    r"|\bx-[a-z-]{0,30}(?:key|token|secret|auth)['\"]?[ \t]*[:=,][ \t]*['\"]?)"
    r"(?P<value>[\w+/.~=-]{12,2000})",
    re.I,
)
_HEADERS = ("bearer", "basic", "authorization", "x-")  # one of these is in each
# `Server=a;User Id=b;Password=c;`, `jdbc:...?user=b&password=c`.
_CONNECTION = re.compile(
    r"[;?&](?:amp;)?\s?(?:password|passwd|pwd|pass|secret|account_?key|shared_?access_?key"
    r"|access_token|auth_token|api_?key|client_secret)\s?=\s?"
    r"(?P<value>[^;&\"'\s<>{}`,)]{6,200})"
    r"|[;?&](?:amp;)?(?:sig|x-amz-signature|signature)=(?P<signature>[\w%+/=-]{24,200})",
    re.I,
)
_URL = re.compile(
    r"://[^\s:/@'\"<>(){}]{0,64}:(?P<value>[^\s:/@'\"<>`]{3,128})@"
    r"(?=[\w\[-])",
    re.I,
)
# `curl -u user:password`, `--password p`, `jdbc:oracle:thin:user/password@`.
_ARGUMENT = re.compile(
    r"(?:\bcurl\b[^\n|;]{0,200}?\s(?:-u|--user)[ =]['\"]?[\w.@-]{1,64}:"
    r"|(?<!\S)--(?:password|passwd|passphrase)[ =]['\"]?|\boracle:thin:\w{1,64}/)"
    r"(?P<value>[^\s'\"`@/<>(){}]{6,128})"
)
_ARGUMENTS = ("curl", "--pass", "oracle:thin:")
# Digests that are published, and where a value comes from.
_NO_SECRET_NAME = re.compile(
    r"hash|sha\d|md5|digest|checksum|fingerprint|public|token_?(?:id|type|name|ur[il]|kind"
    r"|count|index|pattern|file|class)|(?:key|secret|password)[_-]?(?:name|path|file|ur[il]"
    r"|size|length|len|type|field|label|hint|policy|prefix|ref|version|arn)|csrf|tokeniz"
    r"|tokens$|max_token|credentials?[_-]?(?:path|file|type|id)",
    re.I,
)
_UUID = re.compile(r"\{?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\}?", re.I)
_PLACEHOLDER = re.compile(
    r"x{4,}|\*{3,}|\.\.\.|[<>]|^\$|\$\{|\$\(|\{\{|%\(|%[sd]|^%|%$|^@|example|your|change|dummy"
    r"|fake|placeholder|sample|123456789|abcdef|passw(?:or)?d|secret|^token|test|default"
    r"|redacted|hunter2|foobar|https?:|^/|^\./|\(\)|\[|::",
    re.I,
)
_DEFAULTS = frozenset(
    ("pass", "pw", "pwd", "postgres", "root", "admin", "guest", "user")
)
_NUMBER = re.compile(r"[\d._,:/-]+|0x[\da-fA-F_]+")
_FILE_OR_CALL = re.compile(r"^[\w./-]+\.[a-z]{2,4}$|^[a-z_]+(?:\.[a-z_]+)+$", re.I)


def find_assigned(text: str) -> Iterator[tuple[int, int, str]]:
    """`(start, end, kind)` of values given to what sounds secret."""
    lower = text.lower()
    yield from _named(text, lower)
    headers = any(word in lower for word in _HEADERS)
    for match in _HEADER.finditer(text) if headers else ():
        value = match["value"]
        if (match["scheme"] or "").lower() == "basic":
            # Base64 of `user:password`.
            good = len(value) % 4 == 0 and re.search(r"\d|=$", value)
        else:
            good = len(value) >= 16 and mixed(value)
        if good and _random(value, digits=False) and not _FILE_OR_CALL.match(value):
            yield *match.span("value"), "secret"
    if "=" in text:
        for match in _CONNECTION.finditer(text):
            group = "value" if match["value"] else "signature"
            if _random_password(match[group]):
                yield *match.span(group), "password"
    arguments = any(word in text for word in _ARGUMENTS)
    for match in _ARGUMENT.finditer(text) if arguments else ():
        if _random_password(match["value"]):
            yield *match.span("value"), "password"
    if "://" in text:
        for match in _URL.finditer(text):
            value = match["value"]
            if not _PLACEHOLDER.search(value) and value.lower() not in _DEFAULTS:
                if "{" not in value:
                    yield *match.span("value"), "password"


def _named(text, lower):
    if len(lower) != len(text):  # A few letters are longer in lower case.
        lower = text
    for stem in _STEM.finditer(lower):
        start = stem.start()
        before = lower[max(0, start - 16) : start]
        if stem[0] == "key" and not _KIND_OF_KEY.search(before):
            continue
        if match := _QUOTED.match(text, start):
            is_password = stem[0].startswith("p")
            random = _random_password if is_password else _random
            found = random(match["value"])
        elif match := _BARE.match(text, start):
            value = match["value"]
            found = _random(value) and mixed(value) and not _FILE_OR_CALL.match(value)
        else:
            continue
        if found:
            name = re.split(r"[^\w.-]", before)[-1] + text[start : match.start("value")]
            if not _NO_SECRET_NAME.search(name):
                yield *match.span("value"), "secret"


def _random(value, digits=True):
    """Whether characters look random: several bits each, and no words or numbers."""
    if len(value) < MIN_SECRET or _PLACEHOLDER.search(value) or _UUID.fullmatch(value):
        return False
    if (digits and not re.search(r"\d", value)) or _NUMBER.fullmatch(value):
        return False
    return entropy(value) >= MIN_ENTROPY


def _random_password(value):
    """Whether characters look chosen to be guessed by nobody: of three kinds, or random."""
    if (
        len(value) < MIN_PASSWORD
        or _PLACEHOLDER.search(value)
        or _UUID.fullmatch(value)
    ):
        return False
    kinds = sum(bool(re.search(p, value)) for p in ("[a-z]", "[A-Z]", r"\d", r"[^\w]"))
    return (kinds >= 3 or _random(value)) and not _FILE_OR_CALL.match(value)


def mixed(value: str) -> bool:
    """Whether digits stand between letters, as in no name that a person gives.

    >>> mixed("q7Xr2mPz9vLw4KtB"), mixed("layer_norm_2"), mixed("0f" * 16)
    (True, False, True)
    """
    changes = len(re.findall(r"\d(?=[A-Za-z])|[A-Za-z](?=\d)", value))
    cases = len(re.findall(r"[a-z](?=[A-Z])", value))
    return changes >= 3 or (changes >= 2 and cases >= 3)
