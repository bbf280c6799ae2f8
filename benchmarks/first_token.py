"""A keystroke that leaves one new token: by a prefill of eight, and by the decode loop.

    KERAS_BACKEND=jax python benchmarks/first_token.py

Two sessions get the same keystrokes in turn, in a file of 40 lines before the cursor. One
computes the last prompt token with a chunk of prefill, as every prompt did once. Reported:
medians of the milliseconds to the first piece of text, of which in visits of the device, and
to the end of ten tokens.
"""

import argparse
import statistics
import time

from _data import record
from _strokes import source

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Generation, prefill

TYPED = "x = 1 + 2 * 3 - 4 / 5 ** 6 "
WAYS = ("prefill of eight", "decode loop")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--strokes", type=int, default=50)
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
    lines = "\n".join(source().split("\n")[100:140]) + "\n"
    ready = prefill.Prefill._lacks_one_token
    visits = timed_visits()
    sessions = {way: lm.session() for way in WAYS}
    times = {way: [] for way in WAYS}
    for number in range(options.strokes):
        for way, session in sessions.items():
            never = way == "prefill of eight"
            prefill.Prefill._lacks_one_token = (lambda _: False) if never else ready
            text = lines + TYPED[: number % len(TYPED)]
            times[way].append(stroke(session, text, visits))
    found = {}
    for way, values in times.items():
        first, device, whole = zip(*values[10:], strict=True)  # the first ones compile
        found[way] = {
            "first_ms": round(statistics.median(first), 1),
            "of_which_device_ms": round(statistics.median(device), 1),
            "ten_tokens_ms": round(statistics.median(whole), 1),
        }
    record(f"first_token_{options.preset}", {"strokes": options.strokes, **found})


def timed_visits():
    """A list to which each visit of the device adds its seconds."""
    visits, advance = [], Generation.advance

    def timed(self, *args):
        began = time.perf_counter()
        advance(self, *args)
        visits.append(time.perf_counter() - began)

    Generation.advance = timed
    return visits


def stroke(session, prefix, visits):
    """Milliseconds to the first piece, of which in visits of the device, and to the end."""
    visits.clear()
    began = time.perf_counter()
    first, device = None, 0
    for _ in session.stream(prefix, max_new_tokens=10):
        if first is None:
            first, device = time.perf_counter() - began, sum(visits)
    whole = time.perf_counter() - began
    if first is None:
        first, device = whole, sum(visits)
    return 1000 * first, 1000 * device, 1000 * whole


if __name__ == "__main__":
    main()
