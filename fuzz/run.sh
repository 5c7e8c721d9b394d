#!/usr/bin/env bash
# Fuzzes each target for $FUZZ_SECONDS (60); wants `cargo install cargo-fuzz` and a nightly compiler. What is found
# stays in fuzz/artifacts, new inputs in fuzz/corpus; only the small files in fuzz/seeds are kept in the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(spec_load state_record journal plan_file cloud_init_status)
for target in "${targets[@]}"; do
  seeds=(fuzz/seeds/"$target")
  [ "$target" != spec_load ] || seeds=(tests/fixtures/specs/good tests/fixtures/specs/bad)
  mkdir -p fuzz/corpus/"$target"
  cargo +nightly fuzz run "$target" fuzz/corpus/"$target" "${seeds[@]}" -- \
    -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1
done
