"""Counters for Prometheus, and one line of JSON in the log for each request.

Those that begin with `llamacpp:` have llama.cpp's names, so its dashboards show this server.
The log holds no text of prompts or answers unless that is asked for.
"""

import json
import logging
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

LOG = logging.getLogger(__name__)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60)


class Metrics:
    """What was served so far.

    Args:
        scheduler: a function that gives the scheduler, or None while there is none.
        log_prompts: whether the log holds prompts and answers.
    """

    def __init__(self, scheduler, log_prompts: bool = False):
        self._log_prompts = log_prompts
        self._registry = r = CollectorRegistry()

        def counter(name, text, labels=()):
            return Counter(name, text, labels, registry=r)

        self._prompt_tokens = counter(
            "llamacpp:prompt_tokens", "Prompt tokens that were computed."
        )
        self._prompt_seconds = counter(
            "llamacpp:prompt_seconds", "Time until first tokens, waiting included."
        )
        self._tokens = counter("llamacpp:tokens_predicted", "New tokens.")
        self._token_seconds = counter(
            "llamacpp:tokens_predicted_seconds", "Time from first tokens to last ones."
        )
        self._cached = counter(
            "codegemma_cached_prompt_tokens", "Prompt tokens found in a cache."
        )
        self._requests = counter(
            "codegemma_requests", "Requests by path and outcome.", ("path", "outcome")
        )
        self._first = Histogram(
            "codegemma_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=SECONDS,
            registry=r,
        )
        self._whole = Histogram(
            "codegemma_request_seconds",
            "From a request's arrival to its end.",
            buckets=SECONDS,
            registry=r,
        )
        self._gauges(scheduler)

    def _gauges(self, scheduler):
        def gauge(name, text, value):
            def now():
                known = scheduler()
                return 0 if known is None else value(known)

            Gauge(name, text, registry=self._registry).set_function(now)

        gauge("llamacpp:requests_processing", "Answers under way.", lambda s: s.running)
        gauge("llamacpp:requests_deferred", "Prompts that wait.", lambda s: s.waiting)
        gauge("codegemma_prefixes", "Caches that are held.", lambda s: len(s.prefixes))
        gauge(
            "codegemma_prefix_bytes",
            "Memory of caches that are held.",
            lambda s: s.prefixes.bytes,
        )
        gauge(
            "codegemma_programs",
            "Programs that were compiled or loaded so far.",
            lambda s: s.lm.engine.compilations,
        )

    def exposition(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)

    def refused(self, path: str, status: int) -> None:
        """A request that got no text; `path` is that of a route."""
        self._requests.labels(path, str(status)).inc()
        if path != "/health":  # which is polled while the model is loaded
            _log(event="refused", path=path, status=status)

    def finished(self, path: str, job, request_id: str, outcome: str) -> None:
        """A job whose answer was written, or whose client has gone."""
        now = time.monotonic()
        ended = job.ended or now
        prompt, computed = job.prompt_tokens, job.computed_tokens
        self._requests.labels(path, outcome).inc()
        self._prompt_tokens.inc(computed)
        self._tokens.inc(job.new_tokens)
        first = None
        if job.first_token is not None:
            first = job.first_token - job.arrived
            self._prompt_seconds.inc(first)
            self._cached.inc(job.cached_tokens)
            self._token_seconds.inc(max(ended - job.first_token, 0))
            self._first.observe(first)
        self._whole.observe(ended - job.arrived)
        texts = {}
        if self._log_prompts:
            done = [c for c in job.completions if c is not None]
            texts = {
                "prompts": [str(r.prompt) for r in job.ask.requests],
                "answers": [completion.text for completion in done],
            }
        _log(
            event="request",
            id=request_id,
            path=path,
            outcome=outcome,
            prompt_tokens=prompt,
            computed_tokens=computed,
            new_tokens=job.new_tokens,
            first_ms=None if first is None else round(first * 1000, 1),
            ms=round((ended - job.arrived) * 1000, 1),
            stop=[c.stop_reason for c in job.completions if c is not None],
            **texts,
        )


def _log(**fields):
    LOG.info("%s", json.dumps({"time": round(time.time(), 3), **fields}))
