"""The decode engine: prefill in chunks, then a compiled loop, a chunk of tokens a visit.

Rows are ragged: each prompt is left-aligned in its row of the cache and starts to decode
at its own end. Batch, chunk and cache sizes are rounded up to a few buckets, and the
cache grows from bucket to bucket, so attention reads little more than what is filled and
`warm_up` can compile every program ahead.

Between visits the host looks at the tokens: that is where text stops, deadlines and
cancellation act (`Run.stop`), and where other threads get their turn.
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from codegemma_keras.decoding import scoring, steps
from codegemma_keras.decoding.buckets import (
    MAX_STOP_IDS,
    PREFILL_CHUNKS,
    TOKENS_PER_READ,
    TOKENS_PER_READ_GPU,
    VISIT,
    bucket,
    row_bucket,
)
from codegemma_keras.decoding.drafts import Lookup, SmallerModel
from codegemma_keras.decoding.lock import FairLock
from codegemma_keras.decoding.programs import compile_program, on_cpu
from codegemma_keras.decoding.run import Generation, Held, Run
from codegemma_keras.decoding.sampling import Sampling


class Engine:
    """Generates from token ids with one model. Threads may share it.

    Args:
        model: a `CodeGemmaCausalLM`; its current variables are read at each call.

    Attributes:
        compilations: how many programs were compiled so far.
        cache_limit_bytes: refuse requests whose cache would be larger; None: no limit.
    """

    def __init__(self, model):
        self.model = model
        self.backbone = model.backbone
        self.lock = FairLock()
        self.compilations = 0
        self.cache_limit_bytes = None
        self._programs = {}
        self._shapes = set()
        self.seconds_per_step = {}
        self.tokens_per_read = TOKENS_PER_READ if on_cpu() else TOKENS_PER_READ_GPU

    # Generating

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        stop_token_ids: Sequence[int] = (),
        sampling: Sampling = Sampling(),
        seeds: Sequence[int] | None = None,
        speculate=False,
    ) -> list[Generation]:
        """Continue each prompt.

        Args:
            prompts: B lists of token ids, none empty; lengths may differ. Equal prompts
                are prefilled once.
            max_new_tokens: at most so many new tokens a prompt; one int for all, or B.
            stop_token_ids: ids that end a row; not part of the result.
            sampling: how tokens are chosen.
            seeds: one int per prompt. Default: 0, 1, 2, ...
            speculate: True guesses tokens by prompt lookup; a smaller
                `CodeGemmaCausalLM` of the same vocabulary guesses by itself. The same
                tokens, sooner where the guesses are right.

        Returns:
            B generations, in order.
        """
        run = self.start(
            prompts, max_new_tokens, stop_token_ids, sampling, seeds, speculate
        )
        while run.running:
            run.advance(VISIT)
        return run.generations()

    def start(
        self,
        prompts,
        max_new_tokens,
        stop_token_ids=(),
        sampling=Sampling(),
        seeds=None,
        speculate=False,
        held: Held | None = None,
    ) -> Run:
        """A `Run` over prompts, nothing computed yet; arguments as of `generate`.

        Args:
            held: a `Held` cache whose tokens may begin as the (one) prompt does.
        """
        prompts = [list(p) for p in prompts]
        limits = np.broadcast_to(
            np.asarray(max_new_tokens, "int32"), (len(prompts),)
        ).copy()
        self.check_prompts(prompts)
        stop_ids = self._stop_ids(limits, stop_token_ids)
        seeds = list(range(len(prompts))) if seeds is None else list(seeds)
        drafter = self.drafter(speculate)
        return Run(self, prompts, limits, stop_ids, sampling, seeds, drafter, held)

    def drafter(self, speculate):
        """Who guesses: None, `Lookup` or `SmallerModel`; `speculate` as in `generate`.

        Raises:
            ValueError: a model of another vocabulary.
        """
        if isinstance(speculate, bool):
            return Lookup() if speculate else None
        theirs = speculate.backbone.vocabulary_size
        if theirs != self.backbone.vocabulary_size:
            raise ValueError(
                f"The draft model has {theirs} token ids, this model "
                f"{self.backbone.vocabulary_size}: they must share a vocabulary. Use "
                "speculate=True, which needs no second model."
            )
        return SmallerModel(speculate.engine)

    def check_prompts(self, prompts):
        """Raise ValueError for an empty prompt and for ids that are no tokens."""
        size = self.backbone.vocabulary_size
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(
                    f"Prompt {i} is empty: a model needs at least one token, usually bos."
                )
            wrong = [t for t in prompt if not 0 <= t < size]
            if wrong:
                raise ValueError(
                    f"Prompt {i} holds token id {wrong[0]}; ids go from 0 to {size - 1}. "
                    "Was it encoded with another tokenizer?"
                )

    @staticmethod
    def _stop_ids(limits, stop_token_ids):
        if (limits < 0).any():
            raise ValueError(f"max_new_tokens={limits.min()} must be >= 0.")
        stop_token_ids = list(stop_token_ids)
        if len(stop_token_ids) > MAX_STOP_IDS:
            raise ValueError(
                f"{len(stop_token_ids)} stop token ids; at most {MAX_STOP_IDS} fit. Use "
                "stop_strings for more."
            )
        padding = [-1] * (MAX_STOP_IDS - len(stop_token_ids))
        return np.array(stop_token_ids + padding, "int32")

    # Programs

    def warm_up(
        self,
        max_length: int,
        batch_sizes: Sequence[int] = (1,),
        samplings: Sequence[Sampling] = (Sampling(),),
        speculate=False,
    ) -> int:
        """Compile every program that requests of these sizes need.

        Args:
            max_length: tokens of prompt and answer together.
            batch_sizes: rows; each is rounded up to a power of two, and those below are
                compiled too, for batches whose rows end at different times.
            samplings: every `Sampling` that will be used.
            speculate: also the programs of speculative decoding, as in `generate`.

        Returns:
            How many programs were compiled.
        """
        before = self.compilations
        drafter = self.drafter(speculate)
        largest = row_bucket(max(batch_sizes))
        sizes = [1 << i for i in range(largest.bit_length())]
        # A chunk is at least half full, so its padding is at most half the widest, and
        # no more than the prompt; a visit may be planned by another row's limit.
        padding = max(VISIT, min(max_length, PREFILL_CHUNKS[-1] // 2))
        reach = max_length + padding + 1 + (2 * drafter.width if drafter else 0)
        widths = [w for w in PREFILL_CHUNKS if w < 2 * max_length or w == 8]
        slots = [bucket(1)]
        while slots[-1] < reach:
            slots.append(bucket(slots[-1] + 1))
        for rows in sizes:
            for size, larger in zip(slots, [*slots[1:], None], strict=True):
                self._warm(rows, size, larger, widths, samplings, drafter)
        return self.compilations - before

    def _warm(self, rows, slots, larger, widths, samplings, drafter):
        with self.lock:
            hidden, cache = self.empty(rows, slots)
            lengths = np.ones(rows, "int32")
            parts = [1 << i for i in range(rows.bit_length())]
            for width in [w for w in widths if w <= slots]:
                for part in parts:
                    ids = np.zeros((part, width), "int32")
                    hidden, cache = self.prefill(
                        ids, np.int32(0), lengths, hidden, cache
                    )
            each = [np.ones(rows, "int32") for _ in range(4)]  # tokens to limits
            state = steps.Rows(*each, np.ones(rows, bool), np.zeros(rows, "uint32"))
            stop_ids, count = np.full(MAX_STOP_IDS, -1, "int32"), np.int32(0)
            for sampling in samplings:
                self.first(sampling, hidden, state.seeds)
                *_, cache = self.decode(sampling, state, stop_ids, count, cache)
            self._warm_moves(rows, larger, parts, cache, None)
            if drafter is not None:
                hidden, cache = self.empty(rows, slots, drafter)
                for width in [w for w in widths if w <= slots]:
                    for part in parts:
                        ids = np.zeros((part, width), "int32")
                        hidden, cache = self.prefill(
                            ids, np.int32(0), lengths, hidden, cache, drafter
                        )
                for sampling in samplings:
                    memory = np.zeros((rows, slots), "int32")
                    *_, cache = self.speculate(
                        sampling, drafter, state, stop_ids, count, memory, cache
                    )
                self._warm_moves(rows, larger, parts, cache, drafter)

    def _warm_moves(self, rows, larger, parts, cache, drafter):
        """Of rows to more or fewer, and of a cache to its next size."""
        slots = cache[0][0].shape[1]
        for part in parts:
            self.take_rows(cache, np.zeros(part, "int32"))
            self.take_rows(self.empty(part, slots, drafter), np.zeros(rows, "int32"))
        if larger is not None:
            self.grow(cache, larger)

    def _program(self, key, function, donate=(), also=()):
        if key not in self._programs:
            self._programs[key] = compile_program(
                self.model, function, donate, self._count, also
            )
        return self._programs[key]

    def _count(self):
        self.compilations += 1

    def is_compiled(self, *key):
        """Whether the decode program of `(sampling, rows, slots)` exists already."""
        return key in self._shapes

    def cache_bytes(self, rows, slots, drafter=None):
        """Memory of a cache, in bytes; with a draft model's, if there is one."""
        b = self.backbone
        width = 2 if b.compute_dtype in ("float16", "bfloat16") else 4
        per_token = 2 * b.num_layers * b.num_key_value_heads * b.head_dim * width
        size = rows * slots * per_token
        if drafter is not None and drafter.engine is not None:
            size += drafter.engine.cache_bytes(rows, slots)
        return size

    def empty(self, rows, slots, drafter=None):
        """A hidden state `[B, D]` and a cache, both of zeros.

        A cache is a list of pairs, one a layer; a draft model's follow the model's own.
        """
        need = self.cache_bytes(rows, slots, drafter)
        if self.cache_limit_bytes is not None and need > self.cache_limit_bytes:
            raise ValueError(
                f"The cache of {rows} rows of {slots} tokens takes {need:,} bytes, but "
                f"the limit is {self.cache_limit_bytes:,} (`cache_limit_bytes`). Use "
                "fewer rows at once, a shorter prompt or fewer new tokens."
            )

        def zeros():
            b = self.backbone
            hidden = ops.zeros((rows, b.hidden_dim), b.compute_dtype)
            return hidden, b.empty_cache(rows, slots)

        hidden, cache = self._program(("empty", rows, slots), zeros)()
        if drafter is not None and drafter.engine is not None:
            cache = [*cache, *drafter.engine.empty(rows, slots)[1]]
        return hidden, cache

    def own(self, cache):
        """The part of a cache that is this model's, without a draft model's."""
        return list(cache[: self.backbone.num_layers])

    def theirs(self, cache):
        """The part that is the draft model's."""
        return list(cache[self.backbone.num_layers :])

    def prefill(self, ids, offset, lengths, hidden, cache, drafter=None):
        """`steps.prefill`, of the draft model's cache as well."""
        program = self._program(
            "prefill", lambda *args: steps.prefill(self.backbone, *args), donate=(4,)
        )
        theirs = self.theirs(cache)
        hidden, cache = program(ids, offset, lengths, hidden, self.own(cache))
        if drafter is not None and drafter.engine is not None:
            small = drafter.engine  # its hidden state is of no use here
            unused, _ = small.empty(len(lengths), bucket(1))
            _, theirs = small.prefill(ids, offset, lengths, unused, theirs)
            cache = [*cache, *theirs]
        return hidden, cache

    def first(self, sampling, *args):
        return self._program(
            ("first", sampling),
            lambda *args: steps.first_token(self.backbone, sampling, *args),
        )(*args)

    def decode(self, sampling, rows, stop_ids, count, cache):
        """`steps.decode` of at most VISIT tokens."""
        batch = len(rows.tokens)
        output = np.zeros((batch, VISIT), "int32")
        self._shapes.add((sampling, batch, cache[0][0].shape[1]))
        return self._program(
            ("decode", sampling),
            lambda *args: steps.decode(self.backbone, sampling, *args),
            donate=(4,),
        )(rows, stop_ids, count, output, cache)

    def speculate(self, sampling, drafter, rows, stop_ids, count, history, cache):
        """`steps.speculate` of at most VISIT tokens and a draft.

        Args:
            history: the tokens of each row; a draft model needs none.
            cache: with the draft model's.

        Returns:
            As `steps.decode`, with the number of forwards before the cache.
        """
        output = np.zeros((len(rows.tokens), VISIT + drafter.width + 1), "int32")
        small = drafter.engine
        program = self._program(
            ("speculate", sampling, drafter),
            lambda *args: steps.speculate(self.backbone, sampling, drafter, *args),
            donate=(5,) if small is None else (4, 5),
            also=() if small is None else (small.model,),
        )
        memory = history if small is None else self.theirs(cache)
        *results, memory, cache = program(
            rows, stop_ids, count, output, memory, self.own(cache)
        )
        return *results, cache if small is None else [*cache, *memory]

    def take_rows(self, arrays, rows):
        return self._program("take_rows", steps.take_rows)(arrays, rows)

    def score(self, token_ids):
        """`scoring.score_step` of `[B, T]`, as numpy."""
        with self.lock:
            program = self._program(
                "score", lambda ids: scoring.score_step(self.backbone, ids)
            )
            return np.asarray(program(token_ids))

    def grow(self, cache, slots):
        return self._program(("grow", slots), lambda cache: steps.grow(cache, slots))(
            cache
        )
