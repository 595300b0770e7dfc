#!/usr/bin/env bash
# Runs DevRev's TypeScript SDK, old and new, and its Python SDK against revgate. Needs node 20.11 or later, npm and a package registry;
# for the Python SDK python3 with venv, and openssl.
# REVGATE_BIN names a binary to use in place of building one.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# A relative CARGO_TARGET_DIR is relative to where cargo runs: the repository.
binary=${REVGATE_BIN:-${CARGO_TARGET_DIR:-target}/debug/revgate}
if [[ -z ${REVGATE_BIN:-} ]]; then
    cd -- "$here/../.."
    cargo build --locked
fi
REVGATE_BIN=$(cd -- "$(dirname -- "$binary")" && pwd)/$(basename -- "$binary")
export REVGATE_BIN
[[ -x $REVGATE_BIN ]] || { echo "no binary at $REVGATE_BIN" >&2; exit 1; }

cd -- "$here"
npm ci --ignore-scripts --no-audit --no-fund
if python3 -c 'import venv, ensurepip' 2>/dev/null && command -v openssl >/dev/null; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
    export PYTHON_SDK=$here/.venv/bin/python
else
    echo 'SKIPPED: the Python SDK (python3 with venv, or openssl, is missing)' >&2
fi
exec node --test clients.test.mjs objects.test.mjs
