"""Secrets that are told by their shape alone: the rules of gitleaks and detect-secrets.

`secret_rules.json` holds gitleaks' rules (MIT; made by tools/secret_rules.py), and the
patterns of detect-secrets' plugins are taken from the library. All of them look at the
few lines that hold a long run of letters and digits, not at the whole text: two hundred
patterns would cost more than all else.

Left out: detect-secrets' bare entropy plugins, which on real packages report hashes and
tables by the hundred.
"""

import bisect
import collections
import functools
import importlib.resources
import json
import math
import re
import warnings
from collections.abc import Iterator

from codegemma_keras.data.document import require

# detect-secrets' plugins whose patterns have a shape of their own, and a text in lower
# case without which no match is possible.
_PLUGINS = {
    "artifactory.ArtifactoryDetector": ("akc", "ap"),
    "aws.AWSKeyDetector": ("akia", "asia", "abia", "a3t", "aws"),
    "azure_storage_key.AzureStorageKeyDetector": ("accountkey",),
    "discord.DiscordBotTokenDetector": (".",),
    "github_token.GitHubTokenDetector": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    "gitlab_token.GitLabTokenDetector": ("gl", "gr"),
    "mailchimp.MailchimpDetector": ("-us",),
    "npm.NpmDetector": ("_authtoken",),
    "openai.OpenAIDetector": ("t3blbkfj",),
    "pypi_token.PypiTokenDetector": ("pypi-",),
    "sendgrid.SendGridDetector": ("sg.",),
    "slack.SlackDetector": ("xox", "hooks.slack.com"),
    "square_oauth.SquareOAuthDetector": ("sq0csp",),
    "stripe.StripeDetector": ("k_live_",),
    "telegram_token.TelegramBotTokenDetector": (":aa",),
    "twilio.TwilioKeyDetector": ("ac", "sk"),
}
# What neither of them has.
_OWN = (
    # The signature is the secret: all three parts go.
    (r"\beyJ[\w=-]{10,}\.eyJ[\w=-]{6,}(?:\.[\w=+/-]*)?", ("eyj",)),
    (r"\b(?:xapp|xwfp|xox[a-z])-[\w-]{16,}", ("xapp-", "xwfp-", "xox")),
    (r"\bwhsec_[\w+/=-]{20,}", ("whsec_",)),
    (r"\bhv[sbr]\.[\w-]{20,}", ("hvs.", "hvb.", "hvr.")),
    (r"\bdapi[a-f0-9]{32}(?:-\d)?\b", ("dapi",)),
    (r"\bdckr_(?:pat|oat)_[\w-]{20,}", ("dckr_",)),
    (r"\bGOCSPX-[\w-]{20,}", ("gocspx-",)),
    (r"\bgl(?:sa|c|pat|ptt|dt|rt|cbt|ft|imt|soat|agent)[_-][\w=-]{20,}", ("gl",)),
    (r"\bsk-(?:proj|ant|svcacct|admin|or)-[\w-]{20,}", ("sk-",)),
    (r"\bsk-(?=[A-Za-z]*\d)[A-Za-z0-9]{32,}\b", ("sk-",)),
    (r"\bya29\.[\w-]{30,}", ("ya29.",)),
    (r"\b[rsp]k_(?:live|test|prod)_\w{16,}", ("k_live_", "k_test_", "k_prod_")),
    (r"\bkey-[0-9a-f]{32}\b", ("key-",)),
    (r"\bgithub_pat_\w{22,255}", ("github_pat_",)),
    (r"\bAIza[\w-]{35}", ("aiza",)),
    (r"\bhf_[A-Za-z0-9]{30,}\b", ("hf_",)),
    (r"\bnpm_\w{36}\b", ("npm_",)),
    (
        r"(?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/+-]{20,}",
        ("hooks.",),
    ),
    (r"(?<=/api/webhooks/)\d{15,}/[\w-]{40,}", ("/webhooks/",)),
    # A prefix and many random characters, as most services make them today.
    (
        r"(?<![\w/+.-])(?!sha\d|md5)[A-Za-z]{2,10}[_-](?:[a-z0-9]{2,10}[_-])?"
        r"(?=[a-z0-9]*[A-Z])(?=(?:[A-Za-z]*\d){3})[A-Za-z0-9]{24,}(?![\w/+=-])",
        ("-", "_"),
    ),
    (r"\.webhook\.office\.com/webhookb2/([\w@/-]{40,})", ("webhookb2",)),
)
# A run that may be part of a secret: of 28 characters, or of 12 with a digit.
_RUN = re.compile(r"[\w+/=.~%@-]{12,}")
_DIGIT = re.compile(r"\d")
LONG_RUN = 28
# Characters of a line that are looked at before and after a run.
REACH = 400
_PLACEHOLDER = re.compile(
    r"x{4,}|X{4,}|\*{3,}|\.\.\.|0{8,}|1{8,}|example|your[-_]|changeme|dummy|placeholder"
    r"|123456789|abcdefgh",
    re.I,
)


@functools.cache
def _rules():
    """`(id, pattern, keywords, least entropy, allowed)` of all rules."""
    folder = importlib.resources.files("codegemma_keras.data.clean")
    rules = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Sets that are not nested.
        for rule in json.loads((folder / "secret_rules.json").read_text())["rules"]:
            allowed = [re.compile(p) for p in rule["allowed"]]
            pattern = re.compile(rule["pattern"])
            rules.append((pattern, rule["keywords"], rule["entropy"], allowed))
    for name, keywords in _PLUGINS.items():
        module, cls = name.split(".")
        plugin = getattr(require(f"detect_secrets.plugins.{module}"), cls)
        rules += [(p, keywords, 3, []) for p in getattr(plugin, "denylist", ())]
    return rules + [(re.compile(p), keywords, 3, []) for p, keywords in _OWN]


def find_shapes(text: str) -> Iterator[tuple[int, int]]:
    """Spans `(start, end)` of what has the shape of a secret, in no order."""
    starts, places, windows = [], [], []
    length = 0
    for start, end in _windows(text):
        starts.append(start)
        places.append(length)
        windows.append(text[start:end])
        length += end - start + 1
    joined = "\n".join(windows)
    lower = joined.lower()
    for pattern, keywords, least, allowed in _rules() if joined else ():
        if not any(keyword in lower for keyword in keywords):
            continue
        for match in pattern.finditer(joined):
            # The value alone, where the pattern has a group for it.
            groups = range(1, (match.re.groups or 0) + 1)
            spans = [
                match.span(i) for i in groups if match.end(i) - match.start(i) >= 8
            ]
            start, end = (
                max(spans, key=lambda s: s[1] - s[0]) if spans else match.span()
            )
            value = joined[start:end]
            if end - start < 8 or entropy(value) < min(least, 3):
                continue
            if _PLACEHOLDER.search(value) or any(a.search(value) for a in allowed):
                continue
            window = bisect.bisect_right(places, start) - 1
            shift = starts[window] - places[window]
            yield start + shift, end + shift


def _windows(text):
    """Spans around the runs that may be secrets: their line, and the one before it."""
    first = last = 0
    for run in _RUN.finditer(text):
        start, end = run.span()
        if end - start < LONG_RUN and not _DIGIT.search(text, start, end):
            continue
        start = max(
            text.rfind("\n", 0, text.rfind("\n", 0, start) + 1) + 1, start - REACH
        )
        line = text.find("\n", end)
        end = min(line if line >= 0 else len(text), end + REACH)
        if start <= last and last:
            last = max(last, end)
            continue
        if last:
            yield first, last
        first, last = start, end
    if last:
        yield first, last


def entropy(text: str) -> float:
    """Shannon entropy of the characters, in bits per character."""
    counts = collections.Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)
