#!/usr/bin/env bash
# Opens the status page in a headless Chromium, and pages of other sites beside a gateway. Needs node 20.11 or later, npm, a package registry and Chromium.
# REVGATE_BIN names a binary to use in place of building one, CHROMIUM a browser in place of the one on the PATH,
# SCREENSHOTS a directory to keep pictures in.
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
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[[ -n $CHROMIUM ]] || { echo "no Chromium; install chromium, or name one in CHROMIUM" >&2; exit 1; }
export CHROMIUM

cd -- "$here"
npm ci --ignore-scripts --no-audit --no-fund
exec node --test page.test.mjs anonymous.test.mjs
