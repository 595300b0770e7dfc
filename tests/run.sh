#!/usr/bin/env bash
# Runs every test. Needs a Rust toolchain; what else is missing is installed when this runs as root on a system
# with apt-get, and named otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

updated=no
# install PACKAGE...: true when apt-get put them there.
install() {
  if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
    return 1
  fi
  if [ "$updated" = no ]; then
    apt-get update -qq || return 1
    updated=yes
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# As install, but what the package would start, such as a server, is not started.
install_only() {
  local policy=/usr/sbin/policy-rc.d
  if [ "$(id -u)" -ne 0 ] || [ -e "$policy" ]; then
    install "$@"
    return
  fi
  # Also when it is interrupted: with it no service would start any more.
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  local done=0
  install "$@" || done=$?
  rm -f "$policy"
  trap - EXIT
  return "$done"
}

has cargo || fail "cargo is not on the PATH; install Rust (Cargo.toml names the oldest version that will do)"

# aws-lc-rs compiles C. A build with a C compiler alone works on common targets, others need cmake as well.
has cc || has gcc || install gcc libc6-dev || fail "a C compiler is needed to build aws-lc-sys; install gcc"
has cmake || install cmake || printf 'note: cmake is missing; aws-lc-sys needs it on some targets\n' >&2

# The tests start servers of their own, on free ports; Sentinel is the same program.
has redis-server || install_only redis-server || fail "redis-server is needed by the tests of a fleet; install Redis 7 or later"
redis_version=$(redis-server --version | sed -n 's/.* v=\([0-9]*\)\..*/\1/p')
[ "${redis_version:-0}" -ge 7 ] || fail "redis-server is of version ${redis_version:-(unknown)}; the tests of a fleet need 7 or later"

cargo test --locked || fail "cargo test: see the first failing test above"

# The rows of tests/isolation that need another program.
has slowhttptest || install slowhttptest || true
if has slowhttptest; then
  cargo test --locked --test isolation -- --ignored || fail "tests/isolation: an attack of slowhttptest is felt by another caller"
else
  printf 'SKIPPED: slowhttptest (it is missing and could not be installed)\n' >&2
fi

if [ -e tests/clients/run.sh ]; then
  if ! { has node && has npm; }; then
    install nodejs npm || true
  fi
  # For the Python SDK.
  { has python3 && python3 -c 'import venv, ensurepip' 2>/dev/null && has openssl; } || install python3 python3-venv openssl || true
  if has node && has npm; then
    bash tests/clients/run.sh || fail "tests/clients/run.sh: DevRev's own SDKs do not get what they expect"
  else
    # Said last and loudly, so that a run without them is not mistaken for a whole one.
    printf 'SKIPPED: tests/clients (node and npm are missing and could not be installed)\n' >&2
  fi
fi

if [ -e tests/deploy/run.sh ]; then
  has python3 || install python3 python3-venv || true
  bash tests/deploy/run.sh || fail "tests/deploy/run.sh: a file of deploy/ is not what its tool wants, or a tool is missing; see above"
fi

# Not named after a program: `command -v` would find the function itself.
has_browser() { [ -n "${CHROMIUM:-}" ] || has chromium || has chromium-browser || has google-chrome; }

if [ -e tests/browser/run.sh ]; then
  if ! { has node && has npm; }; then
    install nodejs npm || true
  fi
  has_browser || install chromium fonts-dejavu-core || true
  if has node && has npm && has_browser; then
    bash tests/browser/run.sh || fail "tests/browser/run.sh: the status page is not what it should be"
  else
    printf 'SKIPPED: tests/browser (node, npm or chromium is missing and could not be installed)\n' >&2
  fi
fi

if [ -e tests/fuzz/run.sh ]; then
  # libFuzzer is C++.
  has c++ || install g++ || true
  # Found by cargo, also where its folder of programs is not on the PATH.
  cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz || true
  if has c++ && cargo fuzz --version >/dev/null 2>&1 && cargo fetch --locked --manifest-path tests/fuzz/Cargo.toml; then
    bash tests/fuzz/run.sh smoke || fail "tests/fuzz/run.sh: an input breaks a target, or it could not be built; see above"
  else
    printf 'SKIPPED: tests/fuzz (cargo-fuzz, its crates or a C++ compiler is missing and could not be installed)\n' >&2
  fi
fi

printf 'all tests passed\n'
