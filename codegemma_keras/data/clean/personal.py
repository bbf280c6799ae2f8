"""Addresses of people: email, IP, telephone.

Left out: names and postal addresses, which need a model.
"""

import ipaddress
import re
from collections.abc import Iterator

_AT = re.compile(r"(?<=[\w%+-])@(?=[A-Za-z0-9])")
_BEFORE_AT = re.compile(r"(?<![\w.+/-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}\Z")
_EMAIL = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._%+-]{0,63})@"
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
    "git noreply no-reply user username you your name foo me".split()
)
_IPV4 = re.compile(
    r"(?<![\w.+=~^-])(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}"
    r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?![\w-]|\.\d)"
)
# Hosts of URLs, whatever stands before: a user, `=`.
_IPV4_HOST = re.compile(
    r"(?<=://)(?:[^\s/@'\"]{0,80}@)?((?:\d{1,3}\.){3}\d{1,3})(?![\w.]|-)"
)
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){2,7}(?::?[0-9a-fA-F]{1,4}){1,7}(?![\w:.])"
)
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){0,2}")
# What every address has, in patterns that begin with one character, which are searched
# for many times faster than those above.
_DOTTED = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
_COLONS = re.compile(r":[0-9a-fA-F]{1,4}:")
_DIALLED = re.compile(r"\+[1-9]"), re.compile(r"-\d{4}")
_VERSION = re.compile(
    r"version|release|\bv\.?$|\bver\b|section|\u00a7|\boid\b|>=|<=|==|assembly", re.I
)
# `+` with a country's code, or a form that only numbers of North America have.
_PHONE = re.compile(
    r"(?<![\w.+/=-])(?:\+[1-9]\d{0,2}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}"
    r"|\([2-9]\d\d\) [2-9]\d\d-\d{4}|\b[2-9]\d\d-[2-9]\d\d-\d{4})(?![\w.-]|\s?[*/=+])"
)
_DATE = re.compile(r"\+?\d{4,6}-\d\d-\d\d")


def find_personal(text: str) -> Iterator[tuple[int, int, str]]:
    """`(start, end, kind)` of addresses, in no order."""
    if "@" in text:
        yield from _emails(text)
    yield from _addresses(text)
    yield from _phones(text)


def _emails(text):
    for at in _AT.finditer(text):
        local = _BEFORE_AT.search(text[max(0, at.start() - 66) : at.start()])
        match = local and _EMAIL.match(text, at.start() - len(local[0]))
        if not match:
            continue
        local, domain, tld = match.groups()
        tld = tld.lower()
        if tld not in _GENERIC_TLDS and tld not in _COUNTRY_TLDS:
            continue
        # The password and host of a URL look like one.
        start = match.start()
        if text[max(0, start - 64) : start].rpartition("\n")[2].rpartition("//")[1]:
            if re.search(r"//[^\s/@]*:$", text[max(0, start - 64) : start]):
                continue
        if local.lower() not in _NOBODY_LOCAL and not _NOBODY.search(domain):
            yield *match.span(), "email"


def _addresses(text):
    patterns = [(_IPV4, 0), (_IPV4_HOST, 1)] if _DOTTED.search(text) else []
    patterns += [(_IPV6, 0)] if _COLONS.search(text) else []
    for pattern, group in patterns:
        for match in pattern.finditer(text):
            value, start = match[group], match.start(group)
            before = text[max(0, start - 24) : start].rpartition("\n")[2]
            if pattern is _IPV4 and _VERSION.search(before):
                continue
            if pattern is _IPV6 and _MAC.fullmatch(value):
                continue
            try:
                address = ipaddress.ip_address(value)
            except ValueError:
                continue
            host = pattern is _IPV4_HOST
            if address.is_global and not address.is_multicast:
                if not _round(address, host):
                    yield start, start + len(value), "ip address"


def _round(address, host):
    """Written for show, or a version: 1.2.3.4, 8.8.8.8, 11.22.33.44, 12.0.101.5."""
    if address.version == 6:
        return False
    parts = [int(part) for part in str(address).split(".")]
    steps = {b - a for a, b in zip(parts, parts[1:], strict=False)}
    if len(set(parts)) == 1 or len(steps) == 1:
        return True
    # A version is a small number, and most often has a zero in it.
    version = sum(p < 10 for p in parts) >= 3 or (parts[0] < 30 and parts[1] == 0)
    return version and not host


def _phones(text):
    if not any(pattern.search(text) for pattern in _DIALLED):
        return
    for match in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        # 555 is for films; a date has a sign where years may be negative.
        shown = "555" in digits or len(set(digits)) < 4 or _DATE.match(match[0])
        if 11 - (match[0][0] != "+") <= len(digits) <= 15 and not shown:
            yield *match.span(), "phone number"
