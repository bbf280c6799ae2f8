"""Unmodified clients against `codegemma serve` and `codegemma lsp`: `make test-clients`.

They run in an environment of their own, which has no codegemma_keras; CODEGEMMA is the
command to start. What they must get is asked of the server by plain HTTP;
tests/server/ compares that with `infill`.

llama.vim runs in a real Vim in tmux if LLAMA_VIM names a checkout of it:

    git clone https://github.com/ggml-org/llama.vim
    make test-clients LLAMA_VIM=$PWD/llama.vim

minuet runs in a real Emacs if MINUET names a folder with its `minuet.el` and the two
libraries that it needs, `plz.el` (https://github.com/alphapapa/plz.el) and `dash.el`
(https://github.com/magnars/dash.el). It asks for Emacs 29; 28 runs it, too.

Continue's adapters run in Node, installed in the folder NODE. MODEL names another model, and
SCREEN a file for what the screen of Vim or Emacs shows. EXAMPLES says how many requests
schemathesis makes for each route.
"""

import asyncio
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import ollama
import openai
import pytest
from lsprotocol import types
from pygls.lsp.client import LanguageClient

COMMAND = shlex.split(os.environ["CODEGEMMA"])
LLAMA_VIM = os.environ.get("LLAMA_VIM")  # `make test-clients` asks for Vim where set
MINUET = os.environ.get("MINUET")  # and for Emacs
NODE = os.environ["NODE"]
MODEL = os.environ.get("MODEL", "code_gemma_tiny_py")
EXAMPLES = os.environ.get("EXAMPLES", "40")  # of each route, at most, by schemathesis
PREFIX = "def mean(values):\n    total = sum(values)\n    return "
SUFFIX = " / len(values)\n\n\nprint(mean([1, 2]))\n"


# What `schemathesis` checks. Left out: that everything is accepted that fits the OpenAPI
# page, since a schema doesn't say which roles, stop strings or token ids a model has.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.fixture(scope="session")
def address():
    """A running server."""
    command = [*COMMAND, "serve", MODEL, "--port", "0", "--no-warm-up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[2]
            deadline = time.monotonic() + 300
            while not _up(address):
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not come up"
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            assert process.wait(60) == -signal.SIGTERM  # it has ended by itself


def _up(address):
    try:
        return urllib.request.urlopen(f"{address}/health").status == 200
    except OSError:
        return False


def test_schemathesis_finds_no_fault(address, tmp_path):
    """Requests of every route made from its OpenAPI page, right and wrong ones."""
    program = str(pathlib.Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{address}/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--seed", "1", "--max-examples", EXAMPLES, "--request-timeout", "60"]
    command += ["--continue-on-failure", "--no-color", "--warnings", "off"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    print(result.stdout.partition("SUMMARY")[2])
    assert result.returncode == 0, result.stdout
    assert ask(address, "/tokenize", content="x")["tokens"]


def ask(address, route, /, **body):
    request = urllib.request.Request(
        address + route,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@pytest.fixture(scope="session")
def expected(address):
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 16}
    text = ask(address, "/v1/completions", **body)["choices"][0]["text"]
    assert text
    return text


@pytest.fixture
def client_of_openai(address):
    with openai.OpenAI(
        base_url=f"{address}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def client_of_ollama(address):
    with ollama.Client(host=address) as client:
        yield client


def test_openai_completions(client_of_openai, expected):
    client = client_of_openai
    assert [model.id for model in client.models.list()] == [MODEL]
    options = {"model": MODEL, "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 16}
    whole = client.completions.create(**options, logprobs=1)
    assert whole.choices[0].text == expected
    assert "".join(whole.choices[0].logprobs.tokens).startswith(expected)
    assert whole.usage.completion_tokens > 0
    stream = client.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == expected
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_openai_chat_and_errors(client_of_openai):
    client = client_of_openai
    messages = [{"role": "user", "content": "Write a function."}]
    options = {"model": MODEL, "messages": messages, "max_tokens": 8}
    whole = client.chat.completions.create(**options)
    stream = client.chat.completions.create(**options, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.completions.create(model="gpt", prompt="x")
    with pytest.raises(openai.BadRequestError, match="frequency_penalty"):
        client.completions.create(model=MODEL, prompt="x", frequency_penalty=1.0)
    with pytest.raises(openai.BadRequestError, match="1000000000"):
        client.completions.create(model=MODEL, prompt="x", max_tokens=10**9)


def test_ollama(client_of_ollama, expected):
    client = client_of_ollama
    assert client.list().models[0].model == f"{MODEL}:latest"
    assert "insert" in client.show(MODEL).capabilities
    assert client.ps().models[0].size > 0
    options = {"num_predict": 16, "temperature": 0}
    ask = {"model": MODEL, "prompt": PREFIX, "suffix": SUFFIX, "options": options}
    assert client.generate(**ask).response == expected
    pieces = list(client.generate(**ask, stream=True))
    assert "".join(piece.response for piece in pieces) == expected
    assert pieces[-1].done_reason in ("stop", "length")
    messages = [{"role": "user", "content": "Write a function."}]
    answer = client.chat(model=MODEL, messages=messages, options={"num_predict": 8})
    assert answer.message.content is not None
    with pytest.raises(ollama.ResponseError, match="no model"):
        client.generate(model="llama3", prompt="x")


CONTINUE = """
import { constructLlmApi } from "@continuedev/openai-adapters";
const [address, body] = process.argv.slice(1);
const api = constructLlmApi({ provider: "openai", apiBase: address + "/v1/", apiKey: "none" });
let text = "";
for await (const chunk of api.fimStream(JSON.parse(body), AbortSignal.timeout(60000)))
  text += chunk.choices[0].delta.content ?? "";
console.log(JSON.stringify(text));
"""


def test_continue(address, expected):
    """Continue's own client for fill-in-the-middle, which is Mistral's route."""
    body = {"model": MODEL, "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 16}
    command = ["node", "--input-type=module", "-e", CONTINUE, address, json.dumps(body)]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_language_server(address, tmp_path):
    """`codegemma lsp` by pygls's client: open two files, ask inline."""

    async def talk():
        client = LanguageClient("test", "v1")
        await client.start_io(*COMMAND, "lsp", MODEL, "--no-warm-up")
        capabilities = await client.initialize_async(
            types.InitializeParams(
                capabilities=types.ClientCapabilities(), root_uri=tmp_path.as_uri()
            )
        )
        assert capabilities.capabilities.inline_completion_provider
        client.initialized(types.InitializedParams())
        for name, text in (("other.py", "A = 1\n"), ("mean.py", PREFIX + SUFFIX)):
            client.text_document_did_open(
                types.DidOpenTextDocumentParams(
                    types.TextDocumentItem(
                        (tmp_path / name).as_uri(), "python", 1, text
                    )
                )
            )
        kinds = types.InlineCompletionTriggerKind
        answers = [
            await client.text_document_inline_completion_async(
                types.InlineCompletionParams(
                    types.InlineCompletionContext(kind),
                    types.TextDocumentIdentifier((tmp_path / "mean.py").as_uri()),
                    types.Position(2, 11),
                )
            )
            for kind in (kinds.Automatic, kinds.Invoked)
        ]
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()
        return answers

    line, block = asyncio.run(talk())
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 64, "path": "mean.py"}
    body |= {"context": [{"path": "other.py", "text": "A = 1\n"}], "tidy": True}
    for answer, until in ((line, "line"), (block, "block")):
        whole = ask(address, "/v1/completions", **body, until=until)
        text = whole["choices"][0]["text"]
        assert [item.insert_text for item in answer.items] == ([text] if text else [])


def test_llama_vim(address, tmp_path):
    """Type in a real Vim, see ghost text, accept it by Tab."""
    assert LLAMA_VIM, "LLAMA_VIM must name a checkout of llama.vim"
    assert shutil.which("vim"), "install vim"
    told = subprocess.run(["vim", "--version"], capture_output=True, text=True).stdout
    version = tuple(map(int, re.search(r"(\d+)\.(\d+)", told).groups()))
    assert version >= (9, 1), f"llama.vim needs Vim 9.1, and this is {version}"
    vimrc = tmp_path / "vimrc"
    vimrc.write_text(
        "set nocompatible noswapfile\n"
        f"set runtimepath+={LLAMA_VIM}\n"
        f"let g:llama_config = {{'endpoint_fim': '{address}/infill',"
        " 'n_predict': 16, 't_max_predict_ms': 60000, 'show_info': 0}\n"
    )
    type_and_accept(
        tmp_path / "mean.py",
        f"vim -u {vimrc}",
        begin=("2G", "o"),
        end=("Escape", ":wq", "Enter"),
    )


def test_minuet(address, tmp_path):
    """The same in a real Emacs, with minuet as docs/editors.md sets it up."""
    assert MINUET, "MINUET must name a folder with minuet.el, plz.el and dash.el"
    assert shutil.which("emacs"), "install emacs"
    init = tmp_path / "init.el"
    options = {
        ":end-point": f"{address}/v1/completions",
        ":name": "CodeGemma",
        ":api-key": "TERM",
        ":model": MODEL,
    }
    init.write_text(
        "(setq inhibit-startup-screen t make-backup-files nil create-lockfiles nil)\n"
        "(menu-bar-mode -1)\n"
        "(require 'minuet)\n"
        "(setq minuet-provider 'openai-fim-compatible minuet-request-timeout 60)\n"
        "(setq minuet-n-completions 1)\n"
        + "".join(
            f"(plist-put minuet-openai-fim-compatible-options {name} {json.dumps(value)})\n"
            for name, value in options.items()
        )
        + "(add-hook 'prog-mode-hook #'minuet-auto-suggestion-mode)\n"
        '(define-key minuet-active-mode-map (kbd "TAB") #\'minuet-accept-suggestion)\n'
    )
    type_and_accept(
        tmp_path / "mean.py",
        f"emacs -nw -Q -L {MINUET} -l {init}",
        begin=("C-n", "C-n", "C-o"),
        end=("C-x", "C-s"),
    )


def type_and_accept(file, command, begin, end):
    """Type `return ` into a file, wait for ghost text behind it, accept it by Tab.

    Args:
        file: where the program is written.
        command: of an editor in the terminal; the file is its last argument.
        begin: the keys that open a line below the second.
        end: the keys that save the file.
    """
    assert shutil.which("tmux"), "install tmux"
    file.write_text(PREFIX.rpartition("\n")[0] + "\n" + SUFFIX.lstrip(" /len(vaus)"))
    tmux = ["tmux", "-L", f"codegemma{os.getpid()}"]

    def keys(*keys):
        subprocess.run([*tmux, "send-keys", *keys], check=True)

    def screen_when(seen, what):
        deadline = time.monotonic() + 60
        while True:
            run = subprocess.run(
                [*tmux, "capture-pane", "-p"],
                capture_output=True,
                text=True,
                check=True,
            )
            if seen(run.stdout):
                return run.stdout
            assert time.monotonic() < deadline, f"{what}:\n{run.stdout}"
            time.sleep(0.1)

    command = f"{command} {file}"
    subprocess.run([*tmux, "new-session", "-d", "-x80", "-y24", command], check=True)
    try:
        screen_when(lambda s: "total = sum" in s, "the editor does not start")
        keys(*begin)
        keys("    return ")
        typed = "    return "
        ghost = screen_when(lambda s: _line(s, typed) is not None, "no ghost text")
        shown = _line(ghost, typed)
        coloured = subprocess.check_output([*tmux, "capture-pane", "-p", "-e"])
        pathlib.Path(os.environ.get("SCREEN", os.devnull)).write_bytes(coloured)
        keys("Tab")
        keys(*end)
        deadline = time.monotonic() + 30
        while typed not in file.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert shown.rstrip() in file.read_text()
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def _line(screen, typed):
    """The line that begins with what was typed, if something follows on it."""
    for line in screen.splitlines():
        if line.startswith(typed) and line[len(typed) :].strip():
            return line
    return None
