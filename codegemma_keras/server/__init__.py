"""Completion where people type: one model behind the HTTP APIs that editors speak.

    codegemma serve code_gemma_tiny_py --port 8012

In reading order: `settings` is what `codegemma serve` can be told; `ask` is what a body of
any API comes down to, `job` one of them on its way, `preparing` how its prompts are made;
`scheduler` owns the engine and serves many at once, with `prefixes`, the caches that prompts
share; `http` takes a request from bytes to bytes; `app` puts the routes together;
`connections` ends those that say nothing. One module is one API: `openai`, `openai_chat`,
`llamacpp`, `ollama`, `tabby`. `guard` says who may ask, `metrics` and `info` what is here.

Left out: more than one model, and more than one machine, for which there is vLLM. No
template, path or address that a request names is ever used.
"""

from codegemma_keras.server.settings import Settings

__all__ = ["Settings"]
