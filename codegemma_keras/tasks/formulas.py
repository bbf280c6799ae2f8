r"""Answers that are formulas in LaTeX, compared by how they are written, and by value.

The normalisation is the one of Lewkowycz et al. 2022 ("Minerva"), Appendix D: units and
words are dropped, `\frac12` becomes `\frac{1}{2}`, and so on. Two answers are equal if
what is left is the same text, or the same rational number.

Left out: algebra (`x+1` and `1+x` differ), which needs a parser of LaTeX.
"""

import fractions
import re

MAX_LENGTH = 2_000  # characters of an answer
_FINAL = re.compile(
    r"Final Answer: The final answer is(.*?)\. I hope it is correct", re.S
)
_REPLACED = (
    *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", "")),
    *(("mbox", "text"), (",\\text{and}", ","), ("\\text{and}", ",")),
    ("\\text{m}", "\\text{}"),
)
_UNITS = (
    "square ways integers dollars mph inches ft hours km units sue points feet minutes "
    "digits cents degrees cm gm pounds meters meals edges students childrentickets "
    "multiples"
).split()
_MARKS = (
    *("\\ldots", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3"),
    *("\\text{\n}", "\\text{}", r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!"),
    *("{,}", '"', "\\dots"),
)
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(-?\d+)\}")


def final_answer(text: str) -> str:
    """The answer that a solution states last: Minerva's sentence, else its last box."""
    if found := _FINAL.findall(text + ". I hope it is correct"):
        return found[0].strip()
    return boxed(text) or ""


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`; None if there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].partition("box")[2].removeprefix("ed")
    if not rest.startswith("{"):  # \boxed 5
        return re.split(r"[$.]", rest.strip())[0].strip()
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:place]
    return None


def normalize(answer: str) -> str:
    """An answer without units, words and spaces, in one way of writing."""
    answer = answer[:MAX_LENGTH].split("=")[-1]
    for unit in _UNITS:  # while white space still tells words apart
        answer = re.sub(rf"(?<!\\)\b{unit}\b", "", answer)
    for before, after in _REPLACED:
        answer = answer.replace(before, after)
    # Units that stand close to a number; the names of commands stay.
    pieces = re.split(r"(\\[a-zA-Z]+)", answer)
    for i in range(0, len(pieces), 2):
        for unit in _UNITS:
            pieces[i] = pieces[i].replace(unit, "")
    answer = "".join(pieces)
    for mark in _MARKS:
        answer = answer.replace(mark, "")
    answer = re.sub(r"(.*?)(\$)(.*?)(\$)(.*)", "$\\3$", answer)
    for name in ("text", "textbf", "overline"):
        answer = re.sub(rf"(\\{name}\{{)(.*?)(\}})", "\\2", answer)
    answer = re.sub(r"(\\boxed\{)(.*)(\})", "\\2", answer)
    answer = re.sub(r"(frac)([^{])(.)", "frac{\\2}{\\3}", answer)
    answer = re.sub(r"(sqrt)(\[[^\]]*\])(\w)", "\\1\\2{\\3}", answer)
    answer = re.sub(r"(sqrt)(?!\[)([^{])", "sqrt{\\2}", answer)
    answer = answer.replace("$", "")
    # Only true groups of thousands: (0,1) is a pair.
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+", answer):
        answer = answer.replace(",", "")
    return answer


def equal(answer: str, gold: str) -> bool:
    """Whether two answers are the same formula, or the same rational number."""
    ours, theirs = normalize(answer), normalize(gold)
    if not ours:
        return False
    if ours == theirs:
        return True
    a, b = _rational(ours), _rational(theirs)
    return a is not None and a == b


def _rational(text):
    if found := _FRACTION.fullmatch(text):
        sign, above, below = found.groups()
        if int(below) == 0:
            return None
        return (-1 if sign else 1) * fractions.Fraction(int(above), int(below))
    if re.fullmatch(r"-?(\d{1,60}(\.\d{0,60})?|\.\d{1,60})(/\d{1,60})?", text):
        above, _, below = text.partition("/")
        if below and int(below) == 0:
            return None
        return fractions.Fraction(above.rstrip(".")) / int(below or 1)
    return None
