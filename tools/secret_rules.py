"""Make `codegemma_keras/data/clean/secret_rules.json` from the rules of gitleaks.

    python tools/secret_rules.py path/to/gitleaks [COMMIT]

Takes `config/gitleaks.toml` (MIT, Copyright (c) 2019 Zachary Rice), and writes each rule
that tells a secret by its shape as a pattern of Python's `re`. Left out are rules for
whole files, rules that need a path, and those whose kind `secrets` finds itself.
"""

import argparse
import json
import pathlib
import re
import tomllib
import warnings

TARGET = "codegemma_keras/data/clean/secret_rules.json"
# Found by `secrets` itself, with fewer false ones or with the whole of the secret.
LEFT_OUT = {
    "curl-auth-header",
    "curl-auth-user",
    "generic-api-key",
    "jwt",
    "jwt-base64",
    "private-key",
}
# What must follow a secret. In code more than quotes and white space may.
END = r"""(?:[\x60'"\s;]|\\[nr]|$)"""
# What may stand before the name of a secret; it decides nothing, and costs most.
START = r"[\w.-]{0,50}?"


def to_python(pattern):
    """Go's syntax to Python's: flags in the middle, `\\z`, a bare `[` in a class."""
    pattern = (
        pattern.replace(END, r"(?![\w-])").replace(START, "").replace(r"\z", r"\Z")
    )
    while match := re.search(r"(?<!^)\(\?i\)", pattern):
        end = _group_end(pattern, match.end())
        inside = pattern[match.end() : end]
        pattern = f"{pattern[: match.start()]}(?i:{inside}){pattern[end:]}"
    return pattern


def _group_end(pattern, place):
    depth, in_class = 0, False
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            place += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
            place += pattern[place + 1 : place + 2] in ("]", "^")
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                return place
        place += 1
    return place


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gitleaks", type=pathlib.Path)
    parser.add_argument("commit", nargs="?", default="")
    args = parser.parse_args()
    config = tomllib.loads((args.gitleaks / "config/gitleaks.toml").read_text())
    rules = []
    warnings.simplefilter("ignore", FutureWarning)  # A `[[` means what it says here.
    for rule in config["rules"]:
        if rule["id"] in LEFT_OUT or "regex" not in rule or "path" in rule:
            continue
        pattern = to_python(rule["regex"]).replace("[[", r"[\[")
        re.compile(pattern)
        rules.append(
            {
                "id": rule["id"],
                "pattern": pattern,
                "keywords": [k.lower() for k in rule["keywords"]],
                "entropy": rule.get("entropy", 0),
                "allowed": [
                    to_python(p)
                    for entry in rule.get("allowlists", [])
                    if entry.get("regexTarget", "secret") == "secret"
                    for p in entry.get("regexes", [])
                ],
            }
        )
    result = {
        "from": "https://github.com/gitleaks/gitleaks config/gitleaks.toml",
        "commit": args.commit,
        "licence": (args.gitleaks / "LICENSE").read_text(),
        "rules": rules,
    }
    path = pathlib.Path(TARGET)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=True) + "\n")
    print(f"{len(rules)} of {len(config['rules'])} rules: {path}")


if __name__ == "__main__":
    main()
