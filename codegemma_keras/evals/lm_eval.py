"""Models of this package in lm-evaluation-harness, without PyTorch.

    pip install "codegemma-keras[evals]"
    codegemma-lm-eval run --model codegemma-keras \\
        --model_args preset=code_gemma_tiny_py --tasks boolq

The harness finds models by name only in itself: importing this module registers
`codegemma-keras`, and `codegemma-lm-eval` does so before it hands over to the harness's
own command line. In Python, pass an instance: `lm_eval.simple_evaluate(CodeGemmaLM(...))`.

`write_task` makes a task of ours one of theirs: a YAML file beside its rows, which the
harness reads with `--include_path` and without a download.

The harness runs programs that a model wrote (`humaneval`, `mbpp`) unprotected: use
`codegemma eval` for these.
"""

import json
import pathlib
import re
from collections.abc import Sequence

import lm_eval.api.model
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows

from codegemma_keras import chat, files
from codegemma_keras.decoding import RawText, TokenIds
from codegemma_keras.evals.evaluation import open_model
from codegemma_keras.evals.task import Choices, Task

NAME = "codegemma-keras"
# Of the harness, where a task states none.
MAX_NEW_TOKENS = 256
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@register_model(NAME)
class CodeGemmaLM(lm_eval.api.model.LM):
    """A model of this package, as the harness asks it.

    Args:
        preset: name, handle or folder of a model, a `CodeGemmaCausalLM`, or a
            `codegemma_keras.evals.model.Model`.
        dtype: of the weights, such as `"bfloat16"`.
        batch_size: prompts at once.
        max_batch_size, device: as the harness passes them; only None will do, since the
            batch size is not searched for and Keras places the model.
        seed: of sampled answers.
    """

    def __init__(
        self,
        preset="code_gemma_tiny_py",
        dtype=None,
        batch_size=8,
        max_batch_size=None,
        device=None,
        seed=0,
    ):
        super().__init__()
        for name, value in (("max_batch_size", max_batch_size), ("device", device)):
            if value is not None:
                raise ValueError(f"{name}={value!r} has no effect here. Leave it out.")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(
                f"batch_size={batch_size!r} must be a whole number above 0."
            )
        self.model = open_model(preset, dtype)
        self._batch_size, self._seed = int(batch_size), int(seed)
        self._conversations = {}

    @property
    def tokenizer_name(self) -> str:
        """What caches of requests are told apart by."""
        return self.model.name

    def chat_template(self, chat_template=False) -> str | None:
        """The name of the format; None where the harness asks for none."""
        return "gemma" if chat_template else None

    def apply_chat_template(self, chat_history, add_generation_prompt=True) -> str:
        """A conversation as text.

        Its control tokens are found again when this text comes back as a prompt, while
        control strings that stand in messages stay plain text.
        """
        ends = not add_generation_prompt
        pairs = chat.render(chat_history, add_generation_prompt=not ends)
        parts = [part for part, _ in pairs]
        if ends:  # the model goes on with its own last message
            parts = parts[:-2]
        text = "".join(map(str, parts))
        self._conversations[text] = parts
        return text

    def _prompt(self, context: str):
        """A prompt: text, or the tokens of a conversation."""
        if context in self._conversations:
            tokenizer = self.model.tokenizer
            ids = tokenizer.encode(self._conversations[context])
            return TokenIds((tokenizer.start_token_id, *ids))
        if context.startswith(str(chat.START_OF_TURN)):
            return RawText(
                context
            )  # of a cache of requests, written by another process
        return context

    # What the harness asks

    def loglikelihood(self, requests, disable_tqdm=False) -> list[tuple[float, bool]]:
        """See `lm_eval.api.model.LM.loglikelihood`."""
        rows = [self._pair(*request.args) for request in requests]
        return self.model.log_likelihoods(rows, self._batch_size)

    def _pair(self, context, continuation):
        prompt = self._prompt(context)
        if isinstance(prompt, str):
            return self.model.pair(context, continuation)
        ids = self.model.ask(prompt, 0).ids
        return [*ids, *self.model.tokenizer.encode(continuation)], len(ids)

    def loglikelihood_rolling(self, requests, disable_tqdm=False) -> list[float]:
        """See `lm_eval.api.model.LM.loglikelihood_rolling`.

        A text that is longer than the context is read in windows as the harness cuts
        them; each begins with bos, without which likelihoods of Gemma mean nothing.
        """
        bos, encode = self.model.tokenizer.start_token_id, self.model.tokenizer.encode
        rows, owners = [], []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                encode(request.args[0]), bos, self.model.context - 2, 1
            )
            for context, predicted in windows:
                before = context[: len(context) - len(predicted) + 1]
                head = before if before[0] == bos else [bos, *before]
                rows.append(([*head, *predicted], len(head)))
                owners.append(number)
        totals = [0.0] * len(requests)
        found = self.model.log_likelihoods(rows, self._batch_size)
        for owner, (value, _) in zip(owners, found, strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests, disable_tqdm=False) -> list[str]:
        """See `lm_eval.api.model.LM.generate_until`."""
        asked = {}
        for number, request in enumerate(requests):
            context, options = request.args
            stops, length, sampling = generation_options(options)
            one = self.model.ask(self._prompt(context), length)
            asked.setdefault((stops, *sampling.items()), []).append((number, one))
        answers = [""] * len(requests)
        for (stops, *sampling), group in asked.items():
            group.sort(key=lambda pair: -len(pair[1].ids))
            seeds = [(self._seed * 1_000_003 + n) % 2**32 for n, _ in group]
            asked_now = [one for _, one in group]
            texts = self.model.complete(
                asked_now, stops, dict(sampling), seeds, self._batch_size
            )
            for (number, _), written in zip(group, texts, strict=True):
                answers[number] = written.text
        return answers


def generation_options(options: dict) -> tuple[tuple[str, ...], int, dict]:
    """`(stop strings, most new tokens, sampling)` of the harness's `generation_kwargs`.

    Raises:
        ValueError: an option that has no meaning here.
    """
    options = dict(options)
    until = options.pop("until", None) or []
    stops = (until,) if isinstance(until, str) else tuple(until)
    lengths = [options.pop(name) for name in _LENGTHS if name in options]
    temperature = float(options.pop("temperature", 0.0) or 0.0)
    do_sample = options.pop("do_sample", temperature > 0)
    drawn = {
        "temperature": (temperature or 1.0) if do_sample else 0.0,
        "top_p": float(options.pop("top_p", 1.0) or 1.0),
        "top_k": int(options.pop("top_k", 0) or 0),
    }
    if options:
        raise ValueError(
            f"generation_kwargs holds {sorted(options)}, which CodeGemma's decoding has no "
            "use for. Take them out of the task."
        )
    length = int(lengths[0]) if lengths else MAX_NEW_TOKENS
    return tuple(stop for stop in stops if stop), length, drawn


# Tasks of ours as tasks of theirs


def write_task(task: Task, folder, limit: int | None = None) -> str:
    """Write `NAME.yaml` and `NAME.jsonl`, by which the harness asks a task of ours.

    Args:
        task: of choices with one context, or `gsm8k` by the convention `lm-eval`.
        folder: where to.
        limit: the first so many problems.

    Returns:
        The name of the task in the harness.

    Raises:
        ValueError: the harness could not judge it as we do.
    """
    folder = pathlib.Path(folder).resolve()
    name = "ours_" + re.sub(r"\W", "_", task.name)
    prompts = [task.prompt(problem) for problem in task.problems[:limit]]
    if task.of_choices:
        rows, settings = _choice_rows(task, prompts)
    elif task.name == "gsm8k" and task.convention == "lm-eval":
        rows, settings = _gsm8k_rows(task, prompts)
    else:
        raise ValueError(
            f"{task.name} ({task.convention}) is judged in a way that lm-evaluation-harness "
            "has not: give a task of choices, or gsm8k by the convention lm-eval."
        )
    data = folder / f"{name}.jsonl"
    files.put(data, "".join(json.dumps(row) + "\n" for row in rows).encode())
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{context}}",
        "num_fewshot": 0,
        **settings,
    }
    # JSON is YAML.
    files.put(folder / f"{name}.yaml", json.dumps(settings, indent=1).encode())
    return name


def _choice_rows(task: Task, prompts: Sequence[Choices]):
    if any(len(set(prompt.contexts)) > 1 for prompt in prompts):
        raise ValueError(
            f"{task.name} has a context for each choice, for which a YAML file needs "
            "Python code. Use the harness's own task."
        )
    rows = [
        {"context": p.contexts[0], "choices": list(p.texts), "gold": p.gold}
        for p in prompts
    ]
    return rows, {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }


def _gsm8k_rows(task: Task, prompts: Sequence[str]):
    from codegemma_keras.evals import gsm8k

    rows = [
        {"context": prompt, "target": gsm8k.gold(problem)}
        for prompt, problem in zip(prompts, task.problems, strict=False)
    ]
    strict = {"function": "regex", "regex_pattern": gsm8k.STRICT.pattern}
    exact = {
        "metric": "exact_match",
        "aggregation": "mean",
        "higher_is_better": True,
        "ignore_case": True,
        "ignore_punctuation": False,
        "regexes_to_ignore": [",", r"\$", r"\.$"],
    }
    return rows, {
        "output_type": "generate_until",
        "doc_to_target": "{{target}}",
        "generation_kwargs": {
            "until": list(task.stop_strings),
            "max_gen_toks": task.max_new_tokens,
            "do_sample": False,
        },
        "filter_list": [
            {"name": "strict-match", "filter": [strict, {"function": "take_first"}]}
        ],
        "metric_list": [exact],
    }
