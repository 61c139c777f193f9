# shellcheck shell=bash
# ./dev fuzz: the parsers on bytes that nobody sent. The targets are cargo-fuzz's; they are built here
# with the instrumentation that it would add, so that stable Rust is enough and nothing is installed.

readonly FUZZ_TARGETS=(commit_log envelope pgoutput settings)

build_fuzz_targets() {
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  FUZZ_BIN=$ROOT/fuzz/target/$host/release
  # --target keeps the instrumentation out of build scripts.
  RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Ccodegen-units=1 --cfg fuzzing" \
    cargo build --quiet --locked --release --manifest-path "$ROOT/fuzz/Cargo.toml" --target "$host" --bins
}

# Runs one target; what it finds stays in fuzz/artifacts/TARGET/ and fails the command.
fuzz_target() {
  local target=$1 seconds=$2 log=$LOG/fuzz-$1.log corpus=$ROOT/fuzz/corpus/$1 artifacts=$ROOT/fuzz/artifacts/$1
  mkdir -p -- "$corpus" "$artifacts"
  if ! "$FUZZ_BIN/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=4096 \
    -artifact_prefix="$artifacts/" "$corpus" "$ROOT/fuzz/seeds/$target" >"$log" 2>&1 </dev/null; then
    show_log_end "$log" 25
    die "fuzzing $target found something" "the input is in $artifacts" "run it again: $FUZZ_BIN/$target $artifacts/FILE" "full log: $log"
  fi
  say "fuzz $target: $(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second(s)$/\1 runs in \2 s/p' "$log"), nothing found"
}

# fuzz [TARGET…] [--seconds N]: each target for so long; all of them when none is named.
cmd_fuzz() {
  local seconds=30 target
  local -a targets=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      --seconds)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "--seconds wants a whole number"
        seconds=$2
        shift
        ;;
      *)
        [[ " ${FUZZ_TARGETS[*]} " == *" $1 "* ]] || die "no fuzz target '$1'" "there are: ${FUZZ_TARGETS[*]}"
        targets+=("$1")
        ;;
    esac
    shift
  done
  [[ ${#targets[@]} -gt 0 ]] || targets=("${FUZZ_TARGETS[@]}")
  cd "$ROOT" || die "cannot enter $ROOT"
  build_fuzz_targets
  for target in "${targets[@]}"; do fuzz_target "$target" "$seconds"; done
}
