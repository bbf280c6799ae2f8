"""Routes that say what is here, as each API's clients ask for it; and the tokenizer."""

import datetime
import hashlib

import pydantic
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import codegemma_keras
from codegemma_keras.server import ollama
from codegemma_keras.server.ask import ApiError
from codegemma_keras.server.fields import Flag, TokenId
from codegemma_keras.server.http import JsonResponse, gone, read_json, understood
from codegemma_keras.server.replies import to_json
from codegemma_keras.server.scheduler import Scheduler
from codegemma_keras.server.waiting import in_thread, unless

# Clients compare Ollama's version with those that know `suffix`.
OLLAMA_VERSION = "0.6.3"


class TokenizeBody(pydantic.BaseModel):
    """llama.cpp's `/tokenize`."""

    content: str
    add_special: Flag = False
    """Begin with bos."""
    with_pieces: Flag = False


class DetokenizeBody(pydantic.BaseModel):
    """llama.cpp's `/detokenize`."""

    tokens: list[TokenId]


class ShowBody(pydantic.BaseModel):
    """Ollama's `/api/show`; `name` is what older clients say."""

    model: str | None = None
    name: str | None = None


class Info:
    """These routes.

    Args:
        scheduler: a function that gives the `Scheduler`, or raises `BusyError`.
        name: the model's name.
        check_model: raises `ApiError` for a name that is not it.
        body_limit: in bytes.
    """

    def __init__(self, scheduler, name, check_model, body_limit):
        self._scheduler = scheduler
        self._name = name
        self._check_model = check_model
        self._body_limit = body_limit
        self._since = datetime.datetime.now(datetime.UTC)

    async def health(self, request: Request) -> Response:
        """llama.cpp's: 200, or 503 while the model loads."""
        self._scheduler()
        return JsonResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """OpenAI's."""
        model = {
            "id": self._name,
            "object": "model",
            "created": int(self._since.timestamp()),
            "owned_by": "codegemma-keras",
        }
        return JsonResponse({"object": "list", "data": [model]})

    async def props(self, request: Request) -> Response:
        """llama.cpp's."""
        scheduler = self._scheduler()
        context = scheduler.lm.preprocessor.sequence_length
        return JsonResponse(
            {
                "default_generation_settings": {"n_ctx": context},
                "total_slots": scheduler.rows,
                "model_alias": self._name,
                "model_path": self._name,  # where it lies is nobody's business
                "build_info": f"codegemma-keras {codegemma_keras.__version__}",
            }
        )

    async def tokenize(self, request: Request) -> Response:
        """Text to token ids; control strings in it are text."""
        body = await self._body(request, TokenizeBody)
        return await self._of_text(request, _tokens, body)

    async def detokenize(self, request: Request) -> Response:
        """Token ids to text."""
        body = await self._body(request, DetokenizeBody)
        return await self._of_text(request, _text, body)

    async def _of_text(self, request, function, body):
        """An answer that takes as long as its text; in a thread, or others would wait."""
        scheduler = self._scheduler()
        work = in_thread(scheduler, function, scheduler, body)
        try:
            content = await unless(gone(request), work)
        except (ValueError, TypeError) as error:
            raise ApiError(400, str(error)) from None
        if content is None:
            raise ClientDisconnect
        return Response(content, media_type="application/json")

    async def tabby_health(self, request: Request) -> Response:
        """Tabby's."""
        self._scheduler()
        version = {"build_date": "", "git_describe": codegemma_keras.__version__}
        health = {"model": self._name, "device": "", "arch": "", "version": version}
        return JsonResponse(health)

    async def ollama_version(self, request: Request) -> Response:
        """Whose API this is: that of this version of Ollama."""
        return JsonResponse({"version": OLLAMA_VERSION})

    async def ollama_tags(self, request: Request) -> Response:
        """Ollama's list of models."""
        return JsonResponse({"models": [self._ollama_model()]})

    async def ollama_ps(self, request: Request) -> Response:
        """Ollama's list of models in memory."""
        model = self._ollama_model()
        never = "9999-12-31T23:59:59Z"
        loaded = {**model, "expires_at": never, "size_vram": model["size"]}
        return JsonResponse({"models": [loaded]})

    async def ollama_show(self, request: Request) -> Response:
        """What Ollama knows of a model."""
        body = await self._body(request, ShowBody)
        self._check_model(body.model or body.name)
        scheduler = self._scheduler()
        context = scheduler.lm.preprocessor.sequence_length
        family = _family(scheduler)
        return JsonResponse(
            {
                "modelfile": f"FROM {self._name}\n",
                "parameters": "",
                "template": ollama.template(scheduler.lm),
                "details": self._details(scheduler),
                "model_info": {
                    "general.architecture": family,
                    "general.parameter_count": scheduler.lm.backbone.count_params(),
                    f"{family}.context_length": context,
                },
                "capabilities": ["completion", "insert"],
            }
        )

    async def _body(self, request, body_type):
        return understood(body_type, await read_json(request, self._body_limit))

    def _ollama_model(self):
        scheduler = self._scheduler()
        name = f"{self._name}:latest"
        variables = scheduler.lm.backbone.variables
        return {
            "name": name,
            "model": name,
            "modified_at": self._since.isoformat().replace("+00:00", "Z"),
            "size": sum(_bytes(variable) for variable in variables),
            # Of the name: clients want an identity, and there is one model.
            "digest": hashlib.sha256(name.encode()).hexdigest(),
            "details": self._details(scheduler),
        }

    def _details(self, scheduler: Scheduler):
        backbone = scheduler.lm.backbone
        dtype = str(backbone.variables[0].dtype)
        levels = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
        return {
            "parent_model": "",
            "format": "keras",
            "family": _family(scheduler),
            "families": [_family(scheduler)],
            "parameter_size": _short(backbone.count_params()),
            "quantization_level": levels.get(dtype, dtype),
        }


def _family(scheduler):
    # A model of another origin runs in Gemma's network; how it talks says whose it is.
    return scheduler.lm.tokenizer.chat_format


def _tokens(scheduler, body):
    scheduler.check_length(body.content)
    tokenizer = scheduler.lm.tokenizer
    ids = tokenizer.encode(body.content)
    if body.add_special:
        ids.insert(0, tokenizer.start_token_id)
    if body.with_pieces:
        ids = [{"id": id, "piece": tokenizer.decode([id])} for id in ids]
    return to_json({"tokens": ids})


def _text(scheduler, body):
    return to_json({"content": scheduler.lm.tokenizer.decode(body.tokens)})


def _bytes(variable) -> int:
    width = {"bfloat16": 2, "float16": 2, "int8": 1}.get(str(variable.dtype), 4)
    return width * int(variable.value.size if hasattr(variable.value, "size") else 0)


def _short(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"
