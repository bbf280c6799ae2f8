"""Secrets and personal data: find them, then drop the file or put a placeholder there.

Two sources of patterns: those of detect-secrets' plugins that have a shape of their own
(AWS, GitHub, Slack, Stripe, ...), and ours, for assignments of high entropy to names
that sound secret, passwords in URLs, email and public IP addresses. All are searched on
the whole text at once, behind one cheap test for the letters they cannot do without,
instead of detect-secrets' line by line scan with every plugin.

A placeholder is typed (`<EMAIL>`), so a model learns that something stood there.

Left out: names and postal addresses of people, which need a model; detect-secrets' bare
entropy plugins, which on real packages report hashes and tables by the hundred.
"""

import collections
import dataclasses
import functools
import ipaddress
import math
import re
from collections.abc import Iterable, Iterator

from codegemma_keras.data.document import Document, Report, require

STEP = "secrets"
PLACEHOLDERS = {
    "private key": "<PRIVATE_KEY>",
    "secret": "<SECRET>",
    "password": "<PASSWORD>",
    "email": "<EMAIL>",
    "ip address": "<IP_ADDRESS>",
}
# detect-secrets plugins whose patterns have a shape of their own, and a text without
# which no match is possible (checked first, as it costs a fiftieth of the pattern).
_PLUGINS = {
    "artifactory.ArtifactoryDetector": ("AKC", "AP"),
    "aws.AWSKeyDetector": ("AKIA", "ASIA", "ABIA", "A3T", "aws", "AWS", "Aws"),
    "azure_storage_key.AzureStorageKeyDetector": ("AccountKey",),
    "discord.DiscordBotTokenDetector": None,
    "github_token.GitHubTokenDetector": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    "gitlab_token.GitLabTokenDetector": ("gl", "GR"),
    "jwt.JwtTokenDetector": ("eyJ",),
    "mailchimp.MailchimpDetector": ("-us",),
    "npm.NpmDetector": ("_authToken",),
    "openai.OpenAIDetector": ("T3BlbkFJ",),
    "pypi_token.PypiTokenDetector": ("pypi-",),
    "sendgrid.SendGridDetector": ("SG.",),
    "slack.SlackDetector": ("xox", "hooks.slack.com"),
    "square_oauth.SquareOAuthDetector": ("sq0csp",),
    "stripe.StripeDetector": ("k_live_",),
    "telegram_token.TelegramBotTokenDetector": (":AA",),
    "twilio.TwilioKeyDetector": ("AC", "SK"),
}
# Shapes that detect-secrets 1.5.0 lacks.
_OWN = (
    (r"github_pat_\w{22,255}", ("github_pat_",)),
    (r"\bsk-(?:proj-|ant-|svcacct-)?[\w-]{32,}\b", ("sk-",)),
    (r"\bAIza[\w-]{35}\b", ("AIza",)),
    (r"\bya29\.[\w-]{30,}", ("ya29.",)),
    (r"\bhf_[A-Za-z]{34}\b", ("hf_",)),
    (r"\bdop_v1_[a-f0-9]{64}\b", ("dop_v1_",)),
    (r"\bnpm_\w{36}\b", ("npm_",)),
    (r"\bshpat_[a-fA-F0-9]{32}\b", ("shpat_",)),
    (r"\bkey-[0-9a-f]{32}\b", ("key-",)),
    (r"\b[rs]k_live_\w{20,}", ("k_live_",)),
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.{0,20000}?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)?",
    re.S,
)
_ASSIGNED = re.compile(
    r"""(?:api_?key|secret|token|passw(?:or)?d|pwd|auth_?key|access_?key|private_?key"""
    r"""|client_?key|credential)[\w.\[\]-]{0,40}['"]?\]?\s{0,4}(?::\s{0,4}\w+\s{0,4})?"""
    r"""(?:=>?|:|,)\s{0,4}[rbuf]{0,2}(["'])([^"'\s]{8,200})\1""",
    re.I,
)
_URL_PASSWORD = re.compile(
    r"\b[a-z][a-z0-9+.-]{2,20}://[^\s:/@'\"<>]{1,64}:([^\s:/@'\"<>{}$%*]{3,128})@"
)
_EMAIL = re.compile(
    r"(?<![\w.+/=-])([A-Za-z0-9][A-Za-z0-9._%+-]{0,63})@"
    r"((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,4}([A-Za-z]{2,10}))(?![\w@/(=-]|\.\w)"
)
_GENERIC_TLDS = frozenset(
    "com org net edu gov mil int info biz io dev app ai co me tech name pro cloud xyz "
    "online site email systems software science digital academy eu".split()
)
_COUNTRY_TLDS = frozenset(
    "ac ad ae af ag al am ar at au az ba bd be bg bh bo br by ca cc ch cl cn cr cu cy cz "
    "de dk do dz ec ee eg es fi fm fr ge gh gr gt hk hn hr hu id ie il in ir is it jo jp "
    "ke kg kr kw kz la lb li lk lt lu lv ly ma md mk mn mt mx my ng ni nl no nu nz om pa "
    "pe ph pk pl pt py qa ro rs ru sa se sg si sk sn su th tn to tr tv tw tz ua ug uk us "
    "uy uz ve vn za zw".split()
)
# Reserved for documentation (RFC 2606), or no person behind.
_NOBODY = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost|domain|yourdomain|company|email)\.\w+$"
    r"|(?:^|\.)example\.|(?:^|\.)users\.noreply\.",
    re.I,
)
_NOBODY_LOCAL = frozenset(
    (
        "git",
        "noreply",
        "no-reply",
        "user",
        "username",
        "you",
        "your",
        "name",
        "foo",
        "me",
    )
)
_IPV4 = re.compile(
    r"(?<![\w.+=/~^-])(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}"
    r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?![\w-]|\.\d)"
)
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){2,7}(?::?[0-9a-fA-F]{1,4}){1,7}(?![\w:.])"
)
_VERSION = re.compile(
    r"version|release|\bv\.?$|\bver\b|section|§|\boid\b|>=|<=|==", re.I
)
# Bits per character. Random base64 of 20 characters has 4.0 and random hex 3.2 on
# average; words and identifiers stay below 3.6 at that length.
MIN_ENTROPY = 3.0
MIN_SECRET_LENGTH = 12
_PLACEHOLDER = re.compile(
    r"x{4,}|\*{3,}|\.\.\.|<|>|\{|\}|\$|%|example|your|change|dummy|fake|placeholder|test"
    r"|sample|123456789|abcdef|password|secret|token",
    re.I,
)


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """A span of characters `[start, end)` of a text, and its kind."""

    start: int
    end: int
    kind: str


@functools.cache
def _shaped():
    """`(pattern, hints)` of every shape; detect-secrets' are taken from its plugins."""
    shapes = []
    for name, hints in _PLUGINS.items():
        module, cls = name.split(".")
        plugin = getattr(require(f"detect_secrets.plugins.{module}"), cls)
        patterns = getattr(plugin, "denylist", ())
        shapes += [(pattern, hints) for pattern in patterns]
    return shapes + [(re.compile(pattern), hints) for pattern, hints in _OWN]


def find(text: str) -> list[Finding]:
    """Secrets and addresses of a text, in order, not overlapping."""
    found = []
    if "PRIVATE KEY" in text:
        found += [
            Finding(*m.span(), "private key") for m in _PRIVATE_KEY.finditer(text)
        ]
    for pattern, hints in _shaped():
        if hints is None or any(hint in text for hint in hints):
            for match in pattern.finditer(text):
                # The value alone, where the pattern has a group for it.
                spans = [match.span(i) for i in range(1, len(match.groups()) + 1)]
                spans = [s for s in spans if s[1] - s[0] >= 16]
                start, end = spans[0] if spans else match.span()
                if end - start >= 8 and not _PLACEHOLDER.search(text, start, end):
                    found.append(Finding(start, end, "secret"))
    found += _assigned(text)
    if "@" in text:
        found += _emails(text)
        for match in _URL_PASSWORD.finditer(text):
            if not _PLACEHOLDER.search(match[1]) and match[1] not in (
                "pass",
                "pw",
                "pwd",
            ):
                found.append(Finding(*match.span(1), "password"))
    found += _addresses(text)
    return _disjoint(found)


def _assigned(text):
    for match in _ASSIGNED.finditer(text):
        value = match[2]
        if len(value) < MIN_SECRET_LENGTH or _PLACEHOLDER.search(value):
            continue
        if not re.search(r"\d", value):  # words
            continue
        if re.search(r"^https?://|^[\w.]+\(|^[./]|\.\w{2,4}$", value):
            continue
        if entropy(value) >= MIN_ENTROPY:
            yield Finding(*match.span(2), "secret")


def entropy(text: str) -> float:
    """Shannon entropy of the characters, in bits per character."""
    counts = collections.Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def _emails(text):
    for match in _EMAIL.finditer(text):
        local, domain, tld = match.groups()
        tld = tld.lower()
        if tld not in _GENERIC_TLDS and tld not in _COUNTRY_TLDS:
            continue
        if local.lower() in _NOBODY_LOCAL or _NOBODY.search(domain):
            continue
        yield Finding(*match.span(), "email")


def _addresses(text):
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - 24) : match.start()]
            if pattern is _IPV4 and _VERSION.search(before.rpartition("\n")[2]):
                continue
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if address.is_global and not _round(address):
                yield Finding(*match.span(), "ip address")


def _round(address):
    """Written for show: 1.2.3.4, 8.8.8.8, 11.22.33.44, 1.0.0.0, 2001:db8::."""
    if address.version == 6:
        return False
    parts = [int(part) for part in str(address).split(".")]
    steps = {b - a for a, b in zip(parts, parts[1:], strict=False)}
    return len(set(parts)) == 1 or len(steps) == 1 or sum(p < 10 for p in parts) >= 3


def _disjoint(found):
    """Longer spans win over what overlaps them."""
    kept, end = [], 0
    for finding in sorted(found, key=lambda f: (f.start, -f.end)):
        if finding.start >= end:
            kept.append(finding)
            end = finding.end
        elif finding.end > end:
            last = kept.pop()
            kept.append(Finding(last.start, finding.end, last.kind))
            end = finding.end
    return kept


def replace(text: str, findings: Iterable[Finding]) -> str:
    """The text with a typed placeholder for each finding.

    >>> replace("by a@b.org", find("by a@b.org"))
    'by <EMAIL>'
    """
    parts, place = [], 0
    for finding in findings:
        parts += [text[place : finding.start], PLACEHOLDERS[finding.kind]]
        place = finding.end
    return "".join(parts) + text[place:]


def clean_documents(
    documents: Iterable[Document], report: Report, *, mode: str = "replace"
) -> Iterator[Document]:
    """Replace secrets and addresses, or drop the files that hold any.

    Args:
        documents: any.
        report: counts each kind replaced, or each file dropped.
        mode: `"replace"`, `"drop"` (secrets drop the file; addresses are replaced), or
            `"keep"`.

    Raises:
        ValueError: another mode.
    """
    if mode not in ("replace", "drop", "keep"):
        raise ValueError(f"secrets mode {mode!r} must be replace, drop or keep.")
    for document in documents:
        findings = [] if mode == "keep" else find(document.text)
        if not findings:
            yield document
            continue
        hard = [f.kind for f in findings if f.kind not in ("email", "ip address")]
        if mode == "drop" and hard:
            report.drop(STEP, hard[0], document)
            continue
        name = f"{document.repo}:{document.path}"
        for finding in findings:
            report.count(STEP, f"{finding.kind} replaced", name=name)
        yield document.replace(text=replace(document.text, findings))
