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
