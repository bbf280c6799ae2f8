"""Secrets: what is found, and what is left alone."""

import pytest

from codegemma_keras.data.clean import secrets
from codegemma_keras.data.document import Document, Report

# Assembled, so that scanners of this repository find nothing here.
SECRETS = {
    "secret": [
        "AKIA" + "IOSFODNN7RLQZKWT",
        "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
        "xoxb-" + "263594206564-2343594206574-FGqddMF8t08v8N7Oq4i57vs1",
        "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
        "AIza" + "SyDdI0hCZtE6vySjMm-WEfRq3CPzqKqqsHI",
    ],
    "email": ["jane.doe@acme-corp.com", "x.y+z@mail.uni-bonn.de"],
    "ip address": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"],
    "password": ["postgres://admin:Tr0ub4dor3@db.internal/app"],
}


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind in SECRETS for value in SECRETS[kind]]
)
def test_planted_values_are_replaced(kind, value):
    text = f"import os\n\nurl = '{value}'  # see\n"
    found = secrets.find(text)
    assert [f.kind for f in found] == [kind]
    assert secrets.PLACEHOLDERS[kind] in secrets.replace(text, found)
    assert not secrets.find(secrets.replace(text, found))


def test_private_keys_and_assignments():
    key = (
        "-----BEGIN RSA "
        + "PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA "
        + "PRIVATE KEY-----"
    )
    text = f'a = """{key}"""\napi_key = "q7Xr2mPz9vLw4KtB8nYc"\nb = 1\n'
    cleaned = secrets.replace(text, secrets.find(text))
    assert cleaned == 'a = """<PRIVATE_KEY>"""\napi_key = "<SECRET>"\nb = 1\n'


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("x://u:Pw7$w0rd@db.acme-corp.com/a", "x://u:<PASSWORD>@db.acme-corp.com/a"),
        ("curl -sS -u bob:q7Xr2mPz9v h.org", "curl -sS -u bob:<PASSWORD> h.org"),
        ("mysql --password q7Xr2mPz9v a", "mysql --password <PASSWORD> a"),
        (
            "jdbc:oracle:thin:scott/t7Ger9Zx@//h",
            "jdbc:oracle:thin:scott/<PASSWORD>@//h",
        ),
        ('secretKey := []byte("q7Xr2mPz9vLw4KtB")', 'secretKey := []byte("<SECRET>")'),
    ],
)
def test_where_a_password_stands(text, cleaned):
    assert secrets.replace(text, secrets.find(text)) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com", "git@github.com:a/b.git", "127.0.0.1", "192.168.0.10",
        "version = '1.22.33.44'", "x@y.mean()", "A@B.T", "password = 'changeme'",
        "token = 'your-token-here-12345'", "secret_name = get_secret_value()",
        "1.2.3.4", "::1", "12:30:45", "key = 'some_long_identifier_name'",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert secrets.find(text) == []


def test_modes():
    document = Document(f"k = '{SECRETS['secret'][0]}' # a@b-c.org", "a.py")
    report = Report()
    assert not list(secrets.clean_documents([document], report, mode="drop"))
    assert report.number("secrets", "secret") == 1
    (kept,) = secrets.clean_documents([document], Report(), mode="keep")
    assert kept == document
    (clean,) = secrets.clean_documents([document], report)
    assert clean.text == "k = '<SECRET>' # <EMAIL>"
    with pytest.raises(ValueError, match="'hide' must be"):
        list(secrets.clean_documents([document], report, mode="hide"))


PASSWORD = "Tr0ub4" + "dor!x9Q"
RANDOM = "q7Xr2mPz9vLw" + "4KtB8nYcJ5dF6gH1"


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("export API_KEY={}", RANDOM),
        ('#define API_TOKEN "{}"', RANDOM),
        ('const API_KEY: &str = "{}";', RANDOM),
        ("aws_secret_access_key = {}", "wJalr/7K+MDENG" + "bPxRfiCYZq3TpLw8uHs5vAe2"),
        ("X-Api-Key: {}", RANDOM),
        ('"Authorization": "Bearer {}"', RANDOM),
        ('"Authorization": "Basic {}"', "YXBwOnE3WHIybVB6" + "OXZMdzRLdEI="),
        ('"Server=a;Database=b;Password={};Encrypt=true"', PASSWORD),
        ('"jdbc:mysql://db:3306/app?user=app&password={}"', PASSWORD),
        ("mysql://app:{}@db.internal/x", PASSWORD.replace("!", "$")),
        ("amqp://app:{}@mq.internal/x", PASSWORD.replace("!", "%40")),
        ("'{}'", "xa" + "pp-1-A0473520916-8163502947715-" + RANDOM),
        ("'{}'", "wh" + "sec_" + RANDOM),
        ("'{}'", "hv" + "s." + RANDOM),
        ("'{}'", "da" + "pi" + "0a1b2c3d4e5f6789" + "9f8e7d6c5b4a3210"),
        ("'{}'", "dckr" + "_pat_" + RANDOM),
        ("'{}'", "GOC" + "SPX-" + RANDOM),
        ("'{}'", "gl" + "sa_" + RANDOM + "abcd_12ab34cd"),
        ("https://hooks.slack.com/services/{}", "T01ABCDEF23/B04GHIJKL56/" + RANDOM),
        ("https://a.blob.core.windows.net/c?sr=b&sig={}", RANDOM + RANDOM + "%3D"),
        ("http://{}:8080/x", "93.184.216.34"),
        ("http://u@{}/x", "93.184.216.34"),
        ("x={}", "jane@gmail.com"),
        ("# call {}", "+49 228 734 9126"),
    ],
)
def test_what_holds_a_secret_or_an_address(line, secret):
    text = f"import os\n{line.format(secret)}\nx = 1\n"
    cleaned = secrets.replace(text, secrets.find(text))
    assert secret[-8:] not in cleaned
    assert cleaned.startswith("import os\n")
    assert cleaned.endswith("\nx = 1\n")


def test_a_jwt_goes_with_its_signature():
    token = ".".join(
        ["eyJ" + "hbGciOiJIUzI1NiJ9", "eyJzdWIiOiI3NDE4In0", RANDOM + "_-x"]
    )
    text = f"a = '{token}'"
    assert secrets.replace(text, secrets.find(text)) == "a = '<SECRET>'"


@pytest.mark.parametrize(
    "text",
    [
        "token = '6f9619ff-8b86-d011-b42d-00cf4fc964ff'",
        "token_hash = '" + "9f86d081884c7d65" * 4 + "'",
        "sk-loading sk-circle sk-circle1-animation-delay-container",
        "version 12.0.101.5", "pkg = '12.0.101.5'", "mac = '00:1B:44:11:3A:B7:12:34'",
        "group = '224.0.0.251'", "PublicKeyToken=b77a5c561934e089",
        "Test basic FieldStorage", "token = hashlib.sha256(data1).hexdigest()",
        "password = settings.DATABASE_PASSWORD_1", "url = f'a://u:{password}@h/x'",
        "a://user:${PASSWORD}@host/x", "+1980-02-29 01:02:03", "key = 'layer_norm_12_bias'",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_stays(text):
    assert secrets.find(text) == []


MARK = "X PRIVATE" + " KEY-----"


def test_no_code_is_taken_for_a_key():
    """Between the marks of a key stand lines of base64 and nothing else."""
    code = (
        f'def pem(lines):\n    return [b"-----BEGIN {MARK}"] + [\n'
        "        base64.b64encode(line) for line in lines\n    ] + "
        f'[b"-----END {MARK}"]\n'
    )
    assert secrets.find(code) == []
    assert (
        secrets.find(f'HEAD = "-----BEGIN {MARK}"\nkey = load_the_key_of_this(x)\n')
        == []
    )


@pytest.mark.parametrize("glue", ["\n", "\\n", '\\n"\n    "', "\n    # ", '",\n"'])
def test_a_key_is_found_in_the_strings_of_a_language(glue):
    body = [RANDOM + RANDOM] * 3 + ["abcd=="]
    key = glue.join([f"-----BEGIN {MARK}", *body, f"-----END {MARK}"])
    text = f'KEY = "{key}"\nx = 1\n'
    cleaned = secrets.replace(text, secrets.find(text))
    assert cleaned == 'KEY = "<PRIVATE_KEY>"\nx = 1\n'
