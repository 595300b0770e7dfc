#!/usr/bin/env bash
# Fuzzes what reads bytes from strangers: run.sh [SECONDS [TARGET...]]. Each target gets so many seconds, 7 by default.
# Begins with the seeds; what is found beyond them is kept in corpus/, and an input that breaks a target in artifacts/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=${1:-7}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(cargo fuzz list --fuzz-dir .)
fi

# No sanitizer: there is no unsafe code of ours, and without one the toolchain of the product will do.
flags=(--sanitizer none --fuzz-dir .)
cargo fuzz build "${flags[@]}"
for target in "${targets[@]}"; do
  mkdir -p "corpus/$target" "seeds/$target"
  printf 'fuzzing %s for %s s\n' "$target" "$seconds"
  log=$(mktemp)
  if ! cargo fuzz run "${flags[@]}" "$target" "corpus/$target" "seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    printf 'FAILED: %s; tests/fuzz/artifacts/%s has the input\n' "$target" "$target" >&2
    exit 1
  fi
  grep -E '^stat::number_of_executed_units' "$log" || { tail -n 20 "$log" >&2; exit 1; }
  rm -f "$log"
done
