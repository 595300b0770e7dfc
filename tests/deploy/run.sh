#!/usr/bin/env bash
# Checks every file of deploy/ with the tool for its kind. Needs python3 with venv, a package registry for it, promtool,
# systemd-analyze, redis-server and docker-compose. As root on Debian it installs what is missing, otherwise it names it.
# REVGATE_BIN names a binary to use in place of building one.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../.." && pwd)
cd -- "$root"
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
work=$target/deploy
bin=$work/venv/bin
mkdir -p "$work"

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
step() { printf -- '-- %s\n' "$*"; }
install() {
  [ "$(id -u)" -eq 0 ] && has apt-get || return 1
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if [ -z "${REVGATE_BIN:-}" ]; then
  cargo build --locked
  REVGATE_BIN=$target/debug/revgate
fi
[ -x "$REVGATE_BIN" ] || fail "no binary at $REVGATE_BIN"
export REVGATE_BIN

# A stamp marks a finished installation; an interrupted one is repeated.
if ! cmp -s "$here/requirements.txt" "$work/venv/stamp"; then
  python3 -m venv --help >/dev/null 2>&1 || install python3-venv || fail "python3 with venv is needed"
  rm -rf "$work/venv"
  python3 -m venv "$work/venv" || { install python3-venv && python3 -m venv "$work/venv"; } || fail "python3 cannot make a venv"
  "$bin/pip" install -q --disable-pip-version-check --no-deps -r "$here/requirements.txt" || fail "pip: see above"
  cp "$here/requirements.txt" "$work/venv/stamp"
fi

# Takes only the tool out of the package, because installing the package would start a server.
promtool=$(command -v promtool || true)
if [ -z "$promtool" ]; then
  promtool=$work/prometheus/usr/bin/promtool
  if [ ! -x "$promtool" ]; then
    has apt-get && has dpkg-deb || fail "promtool is missing; install Prometheus"
    rm -rf "$work/prometheus" && mkdir -p "$work/prometheus"
    (cd "$work/prometheus" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } \
      && dpkg-deb --fsys-tarfile prometheus_*.deb | tar x ./usr/bin/promtool && rm -- *.deb) >/dev/null 2>&1 \
      || fail "promtool could not be had from the package prometheus; install it"
  fi
fi
# Not installed here, because the package would start a server; tests/run.sh does it without.
has redis-server && has redis-cli || fail "redis-server is missing; install it, or run tests/run.sh"
has systemd-analyze || install systemd || fail "systemd-analyze is missing; install systemd"
if docker compose version >/dev/null 2>&1; then compose=(docker compose)
elif has docker-compose || install docker-compose; then compose=(docker-compose)
else fail "neither 'docker compose' nor docker-compose is there; install one"; fi

step "Dockerfile: hadolint, and that what it copies is enough for cargo"
"$bin/hadolint" deploy/Dockerfile
rm -rf "$work/context" && mkdir -p "$work/context"
sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' deploy/Dockerfile | tr ' ' '\n' | while read -r path; do
  grep -qx -- "!$path" .dockerignore || fail ".dockerignore keeps $path from the Dockerfile"
  cp -r --parents -- "$path" "$work/context"
done
cargo metadata --locked --no-deps --format-version 1 --manifest-path "$work/context/Cargo.toml" >/dev/null

step "compose.yaml: ${compose[*]} config"
"${compose[@]}" -f deploy/compose.yaml config -q
"${compose[@]}" -f deploy/compose.yaml -f deploy/compose.fleet.yaml config -q

step "Kubernetes: kubectl kustomize, strict schemas, the restricted profile; every configuration: revgate check; the fleet's Redis: check --connect"
for base in sidecar standalone fleet; do
  "$bin/kubectl" kustomize "deploy/kubernetes/$base" > "$work/$base.yaml"
done
"$bin/python" "$here/check.py" "$work"

step "systemd: verify, and the figure in the unit's comment"
unit=$work/revgate.service
sed "s#^ExecStart=/usr/local/bin/revgate#ExecStart=$REVGATE_BIN#" deploy/systemd/revgate.service > "$unit"
cp deploy/systemd/revgate.socket "$work/revgate.socket"
said=$(systemd-analyze verify "$unit" "$work/revgate.socket" 2>&1) || fail "systemd-analyze verify: $said"
[ -z "$said" ] || fail "systemd-analyze verify: $said"
figure=$(systemd-analyze security --offline=true --no-pager "$unit" | sed -n 's/.*exposure level for .*: \([0-9.]* [A-Z]*\).*/\1/p')
# Other versions check other things, so the score is compared only for the version that the comment names.
version=$(systemd-analyze --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')
grep -q "(systemd $version): $figure\." deploy/systemd/revgate.service \
  || { ! grep -q "(systemd $version)" deploy/systemd/revgate.service && echo "note: systemd $version says $figure"; } \
  || fail "deploy/systemd/revgate.service: the comment does not say $figure"

step "Prometheus: promtool check and test; the dashboard's queries as rules"
cp deploy/prometheus/alerts.yaml tests/deploy/alerts.test.yaml "$work"
"$promtool" check rules --lint-fatal "$work/alerts.yaml" "$work/dashboard-queries.yaml" >/dev/null
"$promtool" test rules "$work/alerts.test.yaml" >/dev/null

step "/metrics: promtool check metrics, and the OpenMetrics parser of Prometheus' Python client"
PROMTOOL=$promtool PYTHON=$bin/python cargo test --locked -q --lib -- --ignored telemetry::metrics::exposition >/dev/null \
  || fail "/metrics: run PROMTOOL=$promtool PYTHON=$bin/python cargo test --lib -- --ignored telemetry::metrics::exposition"
echo "deploy: all validated"
