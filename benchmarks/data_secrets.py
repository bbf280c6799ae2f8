"""Planted secrets and addresses: recall by kind; and what is found in real packages.

    python benchmarks/data_secrets.py

Each planted value is random, in the shape its maker uses, in one of four settings
(assignment, dict, URL or comment) on a random line of a real file. The false-positive rate is
per 1,000 files of packages whose authors left no secrets; every hit is listed by kind.
Author emails in comments are no false positives: they are what is looked for.
"""

import collections
import random
import string

from _data import package_folder, record

from codegemma_keras.data.clean import secrets

ALNUM = string.ascii_letters + string.digits
SETTINGS = {
    "assignment": "API_KEY = '{}'",
    "dict": 'config = {{"token": "{}", "n": 1}}',
    "call": "client = connect(secret='{}')",
    "comment": "# use {} for now",
}


def makers(rng):
    def pick(letters, number):
        return "".join(rng.choices(letters, k=number))

    upper, hexa = string.ascii_uppercase + string.digits, "0123456789abcdef"
    shaped = {
        "aws": lambda: "AKIA" + pick(upper, 16),
        "github": lambda: "ghp_" + pick(ALNUM, 36),
        "github fine": lambda: "github_pat_" + pick(ALNUM, 60),
        "gitlab": lambda: "glpat-" + pick(ALNUM, 20),
        "slack": lambda: (
            f"xoxb-{pick('123456789', 12)}-{pick('123456789', 12)}-{pick(ALNUM, 24)}"
        ),
        "stripe": lambda: "sk_live_" + pick(ALNUM, 24),
        "google": lambda: "AIza" + pick(ALNUM, 35),
        "sendgrid": lambda: f"SG.{pick(ALNUM, 22)}.{pick(ALNUM, 43)}",
        "hugging face": lambda: "hf_" + pick(string.ascii_letters, 34),
        "npm": lambda: "npm_" + pick(ALNUM, 36),
        "jwt": lambda: f"eyJhbGciOiJIUzI1NiJ9.eyJ{pick(ALNUM, 40)}.{pick(ALNUM, 43)}",
    }
    personal = {
        "email": lambda: (
            f"{pick(string.ascii_lowercase, 7)}@{pick(string.ascii_lowercase, 6)}."
            + rng.choice(["com", "org", "de", "io", "co.uk"])
        ),
        "ipv4": lambda: (
            ".".join(str(rng.randrange(20, 250)) for _ in range(4))
            .replace("127.", "81.")
            .replace("192.168", "93.1")
        ),
        "url password": lambda: f"postgres://app:{pick(ALNUM, 12)}@db.internal:5432/x",
    }
    generic = {
        "random base64": lambda: pick(ALNUM + "+/", 32),
        "random hex": lambda: pick(hexa, 40),
    }
    private = {
        "private key": lambda: (
            "-----BEGIN RSA PRIVATE KEY-----\n"
            + "\n".join(pick(ALNUM, 64) for _ in range(5))
            + "\n-----END RSA PRIVATE KEY-----"
        )
    }
    return shaped, personal, generic, private


def main():
    rng = random.Random(0)
    shaped, personal, generic, private = makers(rng)
    files = []
    for name in ("networkx", "sympy", "keras", "numpy"):
        for path in sorted(package_folder(name).rglob("*.py")):
            files.append(path.read_text("utf-8", "replace"))
    hosts = [f for f in files if 1_000 < len(f) < 20_000 and not secrets.find(f)]
    recall = {}
    for group in (shaped, personal, generic, private):
        for kind, make in group.items():
            settings = list(SETTINGS.values())
            # Random strings are secrets by what they are assigned to.
            settings = settings[:3] if group is generic else settings
            hits = 0
            for i in range(100):
                value = make()
                lines = rng.choice(hosts).split("\n")
                line = (
                    value
                    if kind == "private key"
                    else settings[i % len(settings)].format(value)
                )
                lines.insert(rng.randrange(len(lines)), line)
                text = "\n".join(lines)
                secret = (
                    value.split(":")[2].split("@")[0]
                    if kind == "url password"
                    else value
                )
                hits += secret not in secrets.replace(text, secrets.find(text))
            recall[kind] = hits / 100
    found = collections.Counter()
    listed = []
    flagged = 0
    for text in files:
        hits = secrets.find(text)
        flagged += any(f.kind not in ("email",) for f in hits)
        for finding in hits:
            found[finding.kind] += 1
            if finding.kind != "email" and len(listed) < 60:
                listed.append(
                    f"{finding.kind}: {text[finding.start : finding.end][:60]}"
                )
    record(
        "data_secrets",
        {
            "planted_per_kind": 100,
            "recall": recall,
            "recall_all": round(sum(recall.values()) / len(recall), 4),
            "files": len(files),
            "findings_in_real_packages": dict(found),
            "files_flagged_other_than_email_per_1000": round(
                1000 * flagged / len(files), 2
            ),
            "listed": listed,
        },
    )


if __name__ == "__main__":
    main()
