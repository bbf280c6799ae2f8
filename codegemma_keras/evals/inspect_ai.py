"""Models of this package in Inspect (`inspect_ai`), found by its entry point.

    pip install "codegemma-keras[evals]"
    inspect eval task.py --model codegemma/code_gemma_tiny_instruct_py

What follows `codegemma/` is a preset: a name, a handle or a folder. Instruct models are
asked in the chat format; `-M chat=false` continues the last message as plain text, for
base models. The backend is Keras's (`KERAS_BACKEND`).

Left out: tools, for which CodeGemma has no turns, and images.
"""

import asyncio
import time

from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, ModelUsage, modelapi

MAX_TOKENS = 512
# Options of Inspect that decoding knows; any other must be left at its default.
KNOWN = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs")
# Options of the harness itself, which a model need not know.
THEIRS = (
    *("max_retries", "timeout", "attempt_timeout", "max_connections", "system_message"),
    *("cache", "adaptive_connections", "batch", "modalities", "fallback_on"),
)


@modelapi(name="codegemma")
class CodeGemmaAPI(ModelAPI):
    """A model of this package, as Inspect asks it.

    Args:
        model_name: a preset.
        base_url, api_key: of services; there is none.
        config: Inspect's.
        chat: whether to ask in the chat format.
        dtype: of the weights.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  Inspect's own default
        chat: bool = True,
        dtype: str | None = None,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        from codegemma_keras.evals.evaluation import open_model

        self.model = open_model(model_name, dtype)
        self._chat = chat
        self.model.check({}, chat)

    async def generate(self, input, tools, tool_choice, config) -> ModelOutput:
        """See `inspect_ai.model.ModelAPI.generate`."""
        if tools:
            raise ValueError(
                "CodeGemma has no turns for tools. Use a solver that calls none."
            )
        given = config.model_dump(exclude_none=True)
        unknown = sorted(set(given) - {*KNOWN, *THEIRS})
        if unknown:
            raise ValueError(
                f"CodeGemma's decoding has no use for {', '.join(unknown)}."
            )
        # Threads may share an engine; one that waits must not stop Inspect's loop.
        return await asyncio.to_thread(self._answer, input, config)

    def _answer(self, messages, config):
        from codegemma_keras.decoding import Conversation

        turns = [{"role": m.role, "content": m.text} for m in messages]
        prompt = Conversation(turns) if self._chat else turns[-1]["content"]
        started = time.perf_counter()
        asked = self.model.ask(prompt, config.max_tokens or MAX_TOKENS)
        # Greedy unless a temperature is given, as in all of this package.
        sampling = {
            "temperature": config.temperature or 0.0,
            "top_k": config.top_k or 0,
            "top_p": config.top_p or 1.0,
        }
        [written] = self.model.complete(
            [asked], config.stop_seqs or (), sampling, [config.seed or 0]
        )
        cut = written.stop_reason == "max_new_tokens"
        output = ModelOutput.from_content(
            self.model_name, written.text, "max_tokens" if cut else "stop"
        )
        output.time = time.perf_counter() - started
        output.usage = ModelUsage(
            input_tokens=len(asked.ids),
            output_tokens=written.new_tokens,
            total_tokens=len(asked.ids) + written.new_tokens,
        )
        return output
