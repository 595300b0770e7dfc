#!/usr/bin/env bash
# Fuzzes what reads bytes from strangers.
#   run.sh smoke                    a minute for all targets together
#   run.sh SECONDS [TARGET...]      so many seconds for each
# Begins with the seeds. What is found beyond them is kept in corpus/, and an input that breaks a target in artifacts/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  sed -n 's/^#   //p' "${BASH_SOURCE[0]##*/}" >&2
  exit 2
}

[ $# -gt 0 ] || usage
seconds=$1
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(cargo fuzz list --fuzz-dir .)
fi
options=()
if [ "$seconds" = smoke ]; then
  seconds=$((60 / ${#targets[@]}))
  # The same inputs each time, so that a change is not blamed for what another made.
  options=(-seed=1)
fi
[[ $seconds =~ ^[1-9][0-9]*$ ]] || usage

# No sanitizer: no code of ours is unsafe, and without one the product's own toolchain will do. Several units, so that the build uses all
# cores.
flags=(--sanitizer none --codegen-units 16 --fuzz-dir .)
cargo fuzz build "${flags[@]}"
for target in "${targets[@]}"; do
  mkdir -p "corpus/$target" "seeds/$target"
  printf 'fuzzing %s for %s s\n' "$target" "$seconds"
  log=$(mktemp)
  # 10 s are a thousand times what an input takes: a loop without end.
  if ! cargo fuzz run "${flags[@]}" "$target" "corpus/$target" "seeds/$target" -- \
    "${options[@]}" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    printf 'FAILED: %s; an input in tests/fuzz/artifacts/%s breaks it\n' "$target" "$target" >&2
    exit 1
  fi
  # A run that has not begun is none.
  grep -E '^stat::number_of_executed_units' "$log" || { tail -n 20 "$log" >&2; exit 1; }
  rm -f "$log"
done
