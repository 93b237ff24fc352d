# Every target does all of its own set-up on a fresh Debian 12 machine: Python 3.11, apt and pip are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Real components the tests and the demo start themselves. SoftHSM2 is also what the demo's tokens are.
PACKAGES := python3-venv openssl softhsm2 opensc gnutls-bin strace golang-go golang-golang-x-mod-dev libpango-1.0-0 libpangoft2-1.0-0 \
  fonts-dejavu-core poppler-utils strongswan-pki libstrongswan-standard-plugins libstrongswan-extra-plugins postgresql iproute2 \
  build-essential pkg-config python3-dev libtss2-dev swtpm swtpm-tools tpm2-tools libtpm2-pkcs11-1 libtpm2-pkcs11-tools p11-kit-modules \
  mtools dosfstools e2fsprogs squashfs-tools mosquitto mosquitto-clients mtd-utils fdisk openssh-server openssh-client zbar-tools dmtx-utils chromium curl

.PHONY: install system tools demo demo-factories demo-line demo-cloud test faults line-faults register-faults lint docs matrix bench lock clean simulate

install: system $(READY)

system:
	@sh scripts/system-packages $(PACKAGES)

$(READY): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "birthmark is installed: $(BIN)/birthmark"

# The makers' own tools, each in an environment of its own since their pins contradict: what the tests compare us with.
tools: system
	@PYTHON=$(PYTHON) sh scripts/vendor-tools

demo: install
	@$(BIN)/birthmark demo

demo-factories: install
	@$(BIN)/birthmark demo-factories

demo-line: install
	@$(BIN)/python scripts/demo_line.py

demo-cloud: install tools
	@$(BIN)/python scripts/demo_cloud.py

# One worker a processor; whoever is idle takes over tests of others.
test: install tools lint
	@$(BIN)/python -m pytest -n auto --dist worksteal

# Seeded worlds of an authority and five sites; `make simulate SEED=7` shows one of them step by step.
simulate: install
	@PYTHONPATH=tests $(BIN)/python -m simulation $(if $(SEED),--seed $(SEED) --trace,--seeds $(or $(SEEDS),2000))

# The strace faults at every single write as well, not only at every sync: about an hour.
faults: install
	@BIRTHMARK_FAULTS=all $(BIN)/python -m pytest tests/faults

# Ten thousand devices that lie and lose their power, eight heads, SIGKILL of the station every few seconds: about ten minutes.
line-faults: install
	@BIRTHMARK_LINE_DEVICES=$(or $(DEVICES),10000) BIRTHMARK_LINE_SEED=$(or $(SEED),1) $(BIN)/python -m pytest -s tests/faults/test_line_faults.py

# The offline day: ten thousand devices into an emulated cloud through storms, lost answers and two SIGKILLs.
register-faults: install
	@BIRTHMARK_REGISTER_DEVICES=$(or $(DEVICES),10000) BIRTHMARK_REGISTER_SEED=$(or $(SEED),1) $(BIN)/python -m pytest -s tests/faults/test_register_faults.py

lint: $(READY)
	@$(BIN)/ruff format --check --quiet src tests scripts
	@$(BIN)/ruff check --quiet src tests scripts
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(READY)
	@$(BIN)/python scripts/make_docs.py

# Every kind of device beside every law of a target, from a run of the tests: docs/target-laws.md.
matrix: install tools
	@$(BIN)/python scripts/make_matrix.py

bench: install
	@$(BIN)/birthmark bench issue --count 100000
	@$(BIN)/birthmark bench station
	@$(BIN)/birthmark bench audit --count 100000
	@$(BIN)/birthmark bench image

# Needs uv; writes exact versions with hashes and no index addresses.
lock:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet -o requirements.lock
	for each in tests/tools/*.in; do uv pip compile $$each --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet -o $${each%.in}.lock; done

clean:
	rm -rf $(VENV) .tools build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-workspace demo-factories demo-line demo-cloud
