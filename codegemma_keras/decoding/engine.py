"""The engine of one model: its compiled programs, its limits, and whose turn it is.

Batch, chunk and cache sizes are rounded up to a few buckets, and caches grow from bucket
to bucket, so attention reads little more than what is filled and `warm_up` can compile
every program ahead. What is decoded, for whom and in which order is `generation`'s part.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from codegemma_keras import platforms
from codegemma_keras.decoding import ahead, loop, speculation
from codegemma_keras.decoding import cache as caches
from codegemma_keras.decoding.cache import (
    AS_NEEDED,
    TOKENS_PER_READ,
    TOKENS_PER_READ_GPU,
    Cache,
    Least,
    WeightsVersion,
    bucket,
    row_bucket,
)
from codegemma_keras.decoding.compilation import compile_program
from codegemma_keras.decoding.generation import (
    MAX_STOP_IDS,
    VISIT,
    Generated,
    Generation,
    Row,
)
from codegemma_keras.decoding.lock import Queue
from codegemma_keras.decoding.sampling import Sampling
from codegemma_keras.decoding.speculation import Lookup, SmallerModel


class Engine:
    """Generates from token ids with one model. Threads may share it.

    Args:
        model: a `CodeGemmaCausalLM`; its current variables are read at each call.

    Attributes:
        compilations: how many programs were compiled so far.
        cache_limit_bytes: refuse requests whose cache could become larger than this
            many bytes; None: no limit.
        queue: whose turn on the device it is.
    """

    def __init__(self, model):
        self.model = model
        self.backbone = model.backbone
        self.variables = list(model.variables)
        self.version = getattr(model.backbone, "version", 0)  # of its adapters
        self.queue = Queue()
        self.compilations = 0
        self.cache_limit_bytes = None
        self.seconds_per_step = {}  # number of rows -> lately
        self.tokens_per_read = (
            TOKENS_PER_READ if platforms.platform() == "cpu" else TOKENS_PER_READ_GPU
        )
        self._programs = {}
        self._decode_shapes = set()

    def is_of(self, model) -> bool:
        """Whether the compiled programs still name the variables of `model`."""
        if getattr(model.backbone, "version", 0) != self.version:
            return False
        present = model.variables  # asked once: Keras walks through all layers for it
        pairs = zip(self.variables, present, strict=False)
        return len(self.variables) == len(present) and all(a is b for a, b in pairs)

    # Generating

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        stop_token_ids: Sequence[int] = (),
        sampling: Sampling = Sampling(),
        seeds: Sequence[int] | None = None,
        speculate=False,
    ) -> list[Generated]:
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
            B results, in order.
        """
        generation, rows = self.start(
            prompts, max_new_tokens, stop_token_ids, sampling, seeds, speculate
        )
        while generation.running:
            generation.advance(VISIT)
        return [row.result() for row in rows]

    def start(
        self,
        prompts,
        max_new_tokens,
        stop_token_ids=(),
        sampling=Sampling(),
        seeds=None,
        speculate=False,
    ) -> tuple[Generation, list[Row]]:
        """A `Generation` over prompts, nothing computed yet; arguments as `generate`."""
        prompts = [list(prompt) for prompt in prompts]
        limits = np.broadcast_to(np.asarray(max_new_tokens, "int64"), len(prompts))
        seeds = range(len(prompts)) if seeds is None else seeds
        rows = [
            Row(prompt, int(limit), tuple(stop_token_ids), sampling, int(seed) % 2**32)
            for prompt, limit, seed in zip(prompts, limits, seeds, strict=True)
        ]
        generation = self.generation(speculate)
        generation.join(rows)
        return generation, rows

    def generation(
        self, speculate=False, may_compile=True, least=AS_NEEDED
    ) -> Generation:
        """A `Generation` without rows, which may join; `speculate` as in `generate`."""
        return Generation(self, self.drafter(speculate), may_compile, least)

    def drafter(self, speculate):
        """Who guesses: None, `Lookup` or `SmallerModel`; `speculate` as in `generate`.

        Raises:
            ValueError: a model of another vocabulary.
        """
        if speculate is None or isinstance(speculate, (bool, np.bool_)):
            return Lookup() if speculate else None
        theirs = speculate.backbone.vocabulary_size
        if theirs != self.backbone.vocabulary_size:
            raise ValueError(
                f"The draft model has {theirs} token ids, this model "
                f"{self.backbone.vocabulary_size}: they must share a vocabulary. Use "
                "speculate=True, which needs no second model."
            )
        return SmallerModel(speculate.engine)

    def log_probabilities(self, rows: Sequence[Sequence[int]], batch_size: int = 8):
        """Log-probability of each token given those before it; see `loop.score`.

        Args:
            rows: lists of token ids, none empty, of any lengths.
            batch_size: rows at once.

        Returns:
            A float32 array for each row, as long as the row; its first element is 0.
        """
        return [values for values, _ in self.score(rows, batch_size)]

    def score(self, rows: Sequence[Sequence[int]], batch_size: int = 8):
        """As `log_probabilities`, with whether greedy decoding would take each token.

        Returns:
            `(log-probabilities, bool array)` for each row.
        """
        rows = [list(row) for row in rows]
        for number, row in enumerate(rows):
            self.check_row(Row(row, 0), number)
        program = self._program(
            "score", lambda ids: loop.score(self.backbone, ids), large_products=True
        )
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        results = [None] * len(rows)
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            length = bucket(max(len(rows[i]) for i in chosen))
            ids = np.zeros((row_bucket(len(chosen)), length), "int32")
            for known, i in zip(ids, chosen, strict=False):
                known[: len(rows[i])] = rows[i]
            turn = self.queue.turn()
            with turn.over:
                turn.wait()
                scores, greedy = map(np.asarray, program(ids))
            for values, taken, i in zip(scores, greedy, chosen, strict=False):
                size = len(rows[i])
                results[i] = values[:size].copy(), taken[:size] > 0
        return results

    # Limits

    def check_row(self, row: Row, number: int = 0) -> None:
        """Raise ValueError for a row that cannot run; `number` is its place among all."""
        if not row.prompt:
            raise ValueError(
                f"Prompt {number} is empty: a model needs at least one token, usually "
                "bos."
            )
        self.check_ids(row.prompt, number)
        if row.limit < 0:
            raise ValueError(f"max_new_tokens={row.limit} must be >= 0.")
        if len(row.stop_token_ids) > MAX_STOP_IDS:
            raise ValueError(
                f"{len(row.stop_token_ids)} stop token ids; at most {MAX_STOP_IDS} fit. "
                "Use stop_strings for more."
            )

    def check_ids(self, token_ids, number=0) -> None:
        """Raise ValueError for ids that are no tokens of this model."""
        size = self.backbone.vocabulary_size
        wrong = [t for t in token_ids if not 0 <= t < size]
        if wrong:
            raise ValueError(
                f"Prompt {number} holds token id {wrong[0]}; ids go from 0 to "
                f"{size - 1}. Was it encoded with another tokenizer?"
            )

    def cache_bytes(self, rows, slots, drafter=None) -> int:
        """Memory of a cache, in bytes; with a draft model's, if there is one."""
        b = self.backbone
        width = 2 if b.compute_dtype in ("float16", "bfloat16") else 4
        per_token = 2 * b.num_layers * b.num_key_value_heads * b.head_dim * width
        size = rows * slots * per_token
        if drafter is not None and drafter.engine is not None:
            size += drafter.engine.cache_bytes(rows, slots)
        return size

    def check_cache(self, rows, slots, drafter=None) -> None:
        """Raise ValueError for a cache above `cache_limit_bytes`."""
        need = self.cache_bytes(rows, slots, drafter)
        if self.cache_limit_bytes is not None and need > self.cache_limit_bytes:
            raise ValueError(
                f"The cache of {rows} rows of {slots} tokens takes {need:,} bytes, but "
                f"the limit is {self.cache_limit_bytes:,} (`cache_limit_bytes`). Use "
                "fewer rows at once, a shorter prompt or fewer new tokens."
            )

    def weights_version(self) -> WeightsVersion:
        """Of the present weights; caches of another version are of no use."""
        if platforms.platform() == "cpu":
            return WeightsVersion(self, self._bit_sums_on_host)
        checksum = self._program("bits", lambda: caches.bit_sums(self.variables))
        return WeightsVersion(self, checksum)

    def _bit_sums_on_host(self):
        # Keras would copy all weights; TensorFlow's own call does not.
        values = [np.asarray(variable.value.value()) for variable in self.variables]
        return caches.bit_sums_on_host(values)

    # Programs. Callers have the turn, except while one engine serves as a draft.

    def _program(self, key, function, donate=(), also=(), large_products=False):
        if key not in self._programs:
            self._programs[key] = compile_program(
                self.model, function, donate, self._count, also, large_products
            )
        return self._programs[key]

    def _count(self):
        self.compilations += 1

    def is_compiled(self, work, rows, slots) -> bool:
        """Whether the decode program of these sizes exists already."""
        return (work, rows, slots) in self._decode_shapes

    def hidden(self, rows):
        """Hidden states `[B, D]` of zeros."""
        b = self.backbone

        def zeros():
            return ops.zeros((rows, b.hidden_dim), b.compute_dtype)

        return self._program(("hidden", rows), zeros)()

    def empty(self, rows, slots, drafter=None):
        """Hidden states `[B, D]` and a `Cache`, all zeros."""
        self.check_cache(rows, slots, drafter)
        program = self._program(
            ("empty", rows, slots), lambda: self.backbone.empty_cache(rows, slots)
        )
        small = drafter.engine if drafter is not None else None
        draft = () if small is None else small.empty(rows, slots)[1].own
        return self.hidden(rows), Cache(program(), draft)

    def grow(self, cache, slots, drafter=None):
        """A cache with room for `slots` tokens a row, step by step through the buckets.

        Each step is a program that `warm_up` compiled.
        """
        while cache.slots < slots:
            size = bucket(cache.slots + 1)
            self.check_cache(cache.rows, size, drafter)
            program = self._program(
                ("grow", size), lambda cache, size=size: caches.grow(cache, size)
            )
            cache = program(cache)
        return cache

    def take_rows(self, arrays, rows):
        """`cache.take_rows`."""
        return self._program("take_rows", caches.take_rows)(arrays, rows)

    def put_rows(self, batch, others, source, places):
        """`cache.put_rows`; the memory of `batch` is reused."""
        # A copy of the whole batch took twenty times as long (benchmarks/join_row.py).
        program = self._program("put_rows", caches.put_rows, donate=(0,))
        return program(batch, others, source, places)

    def prefill(self, ids, offset, lengths, hidden, cache, drafter=None):
        """`loop.prefill`, of the draft model's cache as well."""
        program = self._program(
            "prefill",
            lambda *args: loop.prefill(self.backbone, *args),
            donate=(4,),
            large_products=True,
        )
        hidden, own = program(ids, offset, lengths, hidden, cache.own)
        draft = cache.draft
        if drafter is not None and drafter.engine is not None:
            small = drafter.engine  # its hidden state is of no use here
            unused = small.hidden(len(lengths))
            _, read = small.prefill(ids, offset, lengths, unused, Cache(draft))
            draft = read.own
        return hidden, Cache(own, draft)

    def first(self, work, settings, hidden, seeds):
        """`loop.first_token`."""
        program = self._program(
            ("first", work),
            lambda *args: loop.first_token(self.backbone, work, *args),
        )
        return program(settings, hidden, seeds)

    def decode(self, work, rows, steps, cache):
        """`loop.decode` of at most VISIT tokens."""
        output = np.zeros((cache.rows, VISIT), "int32")
        self._decode_shapes.add((work, cache.rows, cache.slots))
        program = self._program(
            ("decode", work),
            lambda *args: loop.decode(self.backbone, work, *args),
            donate=(3,),
        )
        *results, own = program(rows, steps, output, cache.own)
        return *results, Cache(own, cache.draft)

    def speculate(self, work, drafter, rows, steps, history, cache):
        """`speculation.speculate` of at most VISIT tokens and a draft.

        Args:
            history: the tokens of each row; a draft model needs none.
            cache: with the draft model's.

        Returns:
            As `decode`, with the number of forwards before the cache.
        """
        output = np.zeros((cache.rows, VISIT + drafter.width + 1), "int32")
        small = drafter.engine
        program = self._program(
            ("speculate", work, drafter),
            lambda *args: speculation.speculate(self.backbone, work, drafter, *args),
            donate=(4,) if small is None else (3, 4),
            also=() if small is None else (small.model,),
        )
        memory = history if small is None else cache.draft
        *results, memory, own = program(rows, steps, output, memory, cache.own)
        return *results, Cache(own, () if small is None else memory)

    # Compiling ahead

    def warm_up(
        self,
        max_length: int,
        batch_sizes: Sequence[int] = (1,),
        samplings: Sequence[Sampling] = (Sampling(),),
        speculate=False,
        joining: bool = False,
        prompts: int | None = None,
        pause: Callable[[], None] | None = None,
        least: Least = AS_NEEDED,
    ) -> int:
        """Compile every program that requests of these sizes need; others may go on.

        Args:
            max_length: tokens of prompt and answer together.
            batch_sizes: rows; each is rounded up to a power of two, and those below are
                compiled too, for batches whose rows end at different times.
            samplings: one of each kind of `Sampling` that will be used: other
                temperatures, or another top-k up to the same power of two, need no
                program of their own.
            speculate: also the programs of speculative decoding, as in `generate`.
            joining: also the programs by which one row joins a running batch.
            prompts: most different prompts that are prefilled at once. Default: as many
                as there are rows. A server whose rows join one by one needs 1.
            pause: called before each program; a server waits in it until it is idle.
            least: as of the `generation` that will be used.

        Returns:
            How many programs were compiled.
        """
        before = self.compilations
        calls = ahead.calls(
            self, max_length, batch_sizes, samplings, speculate, joining, prompts, least
        )
        while not self._call_ahead(calls, pause):
            pass
        return self.compilations - before

    def _call_ahead(self, calls, pause):
        """The next program of a warm-up; whether there was none.

        It computes with arrays of its own, so on JAX it needs no turn: requests go on while
        a program is compiled, which takes seconds, and share the processor with it.
        TensorFlow traces one function at a time.
        """
        if pause is not None:
            pause()
        if keras.config.backend() == "jax":
            return next(calls, True)
        turn = self.queue.turn()
        with turn.over:
            turn.wait()
            return next(calls, True)
