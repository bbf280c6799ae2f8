"""A model that needs no network: its answers are a function of the prompt.

As a program it runs an evaluation that can be killed:
`python -m tests.evals.fake_model FOLDER PROBLEMS`.
"""

import hashlib
import sys
import time

from codegemma_keras import evals
from codegemma_keras.evals.asked import Asked, Text
from codegemma_keras.evals.run import Settings
from codegemma_keras.evals.task import Hole


class FakeModel:
    """Answers `answer(prompt)`; other prompts in the batch are mixed into its tokens.

    So a batch that is not the same gives other samples, and a test sees it.
    """

    name, device, dtype, backend = "fake", "nothing", "float32", "none"
    context, compilations = 4096, 0

    def __init__(self, answer=lambda prompt: "", seconds=0.0):
        self._answer, self._seconds = answer, seconds
        self._prompts = {}
        self.asked = 0

    def check(self, sampling, chat):
        pass

    def fingerprint(self):
        return "0"

    def ask(self, prompt, max_new_tokens, max_tokens=None):
        text = (
            f"{prompt.prefix}|{prompt.suffix}" if isinstance(prompt, Hole) else prompt
        )
        self._prompts[tuple(text.encode())] = prompt
        return Asked(tuple(text.encode()), max_new_tokens, False)

    def complete(
        self, asked, stop_strings=(), sampling=None, seeds=None, rows=None, ended=None
    ):
        self.asked += len(asked)
        time.sleep(self._seconds)
        mixed = hashlib.blake2b(repr([a.ids for a in asked]).encode()).digest()
        return [
            Text(self._answer(self._prompts[a.ids]), "stop_token", mixed[0] + seed % 7)
            for a, seed in zip(asked, seeds, strict=True)
        ]


def evaluate(folder, limit):
    """Evaluate on GSM8K, slowly."""
    slow = FakeModel(lambda prompt: f"It is {len(prompt)}.", seconds=0.02)
    settings = Settings(limit=limit, batch_size=3)
    evals.evaluate(["gsm8k"], slow, folder, settings=settings)


if __name__ == "__main__":
    evaluate(sys.argv[1], int(sys.argv[2]))
