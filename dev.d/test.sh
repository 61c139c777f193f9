# shellcheck shell=bash
# ./dev test: everything CI runs. cargo test comes last, so that the output ends with its summary.

readonly CARGO_DENY_VERSION=0.20.2
# Short runs of the torture test: each seed has other faults.
readonly TORTURE_SEEDS=(1 2) TORTURE_MINUTES=0.75
# Parts of the end-to-end tests that run on the newest Postgres only: which one it is does not matter there.
readonly ANY_POSTGRES=(followers:: history:: idle:: invariant:: lag:: large:: metrics:: new_copies:: progress:: reader_rules:: rebuild:: reload::
  replay:: restarts:: secured:: skips:: stalled:: traces:: transactions:: trimming::)

test_lints() {
  local -a scripts
  say "format"
  cargo fmt --check
  say "clippy"
  cargo clippy --quiet --all-targets --locked -- -D warnings
  say "docs"
  RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --locked
  test_dependencies
  test_rules
  test_pint
  test_alertmanager
  test_dashboards
  if command -v shellcheck >/dev/null; then
    say "shellcheck"
    scripts=("$ROOT/dev" "$ROOT/.ci/run" "$PARTS"/*.sh "$ROOT"/bench/peers/*.sh)
    shellcheck -x "${scripts[@]}"
  else
    say "shellcheck skipped: not installed (apt-get install shellcheck)"
  fi
}

# The audit's program, built once into .stack/dist; its absence (no network) is said and is no failure.
ensure_cargo_deny() {
  local root=$DIST/cargo-deny-$CARGO_DENY_VERSION
  command -v cargo-deny >/dev/null && return 0
  if [[ ! -x $root/bin/cargo-deny ]]; then
    say "building cargo-deny $CARGO_DENY_VERSION (once)"
    # It runs for seconds, so it is built for a short build.
    if ! CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked --root "$root" \
      "cargo-deny@$CARGO_DENY_VERSION" >"$LOG/cargo-deny.log" 2>&1; then
      say "dependency audit skipped: cargo-deny cannot be built (see $LOG/cargo-deny.log)"
      return 1
    fi
  fi
  PATH=$root/bin:$PATH
}

# Licences, sources and duplicates need no network; the advisory database does, and its absence is no failure.
test_dependencies() {
  ensure_cargo_deny || return 0
  # It looks at the dependencies of all platforms; a build has fetched those of this one.
  if ! cargo fetch --quiet --locked >"$LOG/cargo-deny.log" 2>&1; then
    say "dependency audit skipped: dependencies cannot be fetched (see $LOG/cargo-deny.log)"
    return 0
  fi
  say "dependency audit"
  cargo deny --offline --log-level error check bans licenses sources
  if cargo deny --log-level error fetch db >"$LOG/cargo-deny.log" 2>&1; then
    cargo deny --offline --log-level error check advisories
  else
    say "advisories skipped: the advisory database cannot be fetched (see $LOG/cargo-deny.log)"
  fi
}

# Leaves nothing behind, says nothing (the last lines belong to cargo), keeps the logs of a failed run.
end_tests() {
  local status=$?
  trap - EXIT
  (server_stop_all "$TEST_DIR" immediate) >/dev/null 2>&1 || true
  if [[ $status -eq 0 ]]; then
    remove_servers_dir "$TEST_DIR"
  else
    keep_servers_dir "$TEST_DIR"
    say "failed; servers' data and logs are kept in $TEST_DIR"
  fi
  exit "$status"
}

start_test_kafka() {
  if [[ -n ${WALFERRY_KAFKA:-} ]]; then
    export WALFERRY_TEST_KAFKA=$WALFERRY_KAFKA
  else
    WALFERRY_KAFKA_HEAP=768m kafka_start "$TEST_DIR/kafka" 1
    WALFERRY_TEST_KAFKA=$(<"$TEST_DIR/kafka/bootstrap")
    export WALFERRY_TEST_KAFKA
  fi
}

has_end_to_end_tests() { [[ -e $ROOT/tests/end_to_end.rs || -e $ROOT/tests/end_to_end/main.rs ]]; }

# The other stores than Postgres that there are tests of.
ensure_test_stores() {
  local version
  [[ -n ${WALFERRY_TEST_CLICKHOUSE:-} ]] || ensure_clickhouse
  for version in "${MARIADB_VERSIONS[@]}"; do ensure_mariadb "$version"; done
}

# A directory for the servers of this run, removed with them at its end: in memory or on the disk.
begin_test_run() {
  local where=$1 old
  while read -r old; do remove_servers_dir "$old"; done < <(find "$STACK/test" -mindepth 1 -maxdepth 1 -name 'run-*' -mtime +1 2>/dev/null)
  TEST_DIR=$STACK/test/run-$$
  make_servers_dir "$TEST_DIR" "$where"
  trap end_tests EXIT
  # Tests wait for servers more than they compute.
  export RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}
  export WALFERRY_DEV=$ROOT/dev WALFERRY_STACK=$STACK WALFERRY_TEST_DIR=$TEST_DIR
  ensure_prometheus || die "Prometheus is missing and cannot be fetched (see $LOG/fetch-prometheus.log)" \
    "with prometheus and promtool in PATH nothing is fetched"
  WALFERRY_PROMETHEUS=$(command -v prometheus)
  export WALFERRY_PROMETHEUS
  ensure_example_packages
  find_browser
  find_pint
  find_alertmanager
}

cmd_test() {
  local seed quick=no newest=${PG_VERSION:-$PG_NEWEST}
  if [[ ${1:-} == --quick ]]; then
    quick=yes
    shift
  fi
  cd "$ROOT" || exit
  ensure_rust
  ensure_setup "$newest" "$PG_OLDEST"
  ensure_test_stores
  begin_test_run memory
  if [[ $quick == no ]]; then
    test_lints
    # Whole runs only: with arguments somebody is after particular tests.
    [[ $# -gt 0 ]] || cmd_fuzz --seconds 5
  fi
  start_test_kafka
  if [[ $quick == no && $# -eq 0 && $newest != "$PG_OLDEST" ]]; then
    if has_end_to_end_tests; then
      say "end-to-end tests on Postgres $PG_OLDEST"
      WALFERRY_TEST_PG=$PG_OLDEST cargo test --locked --test end_to_end -- "${ANY_POSTGRES[@]/#/--skip=}"
    else
      say "end-to-end tests on Postgres $PG_OLDEST skipped: there is no tests/end_to_end.rs"
    fi
    if [[ $newest != "$PG_SCENARIOS" ]]; then
      say "scenarios on Postgres $PG_SCENARIOS"
      ensure_setup "$PG_SCENARIOS"
      WALFERRY_TEST_PG=$PG_SCENARIOS cargo test --locked --test scenarios
    fi
  fi
  if [[ $quick == no && $# -eq 0 ]]; then
    for seed in "${TORTURE_SEEDS[@]}"; do
      say "torture test, seed $seed"
      (cmd_torture --seed "$seed" --minutes "$TORTURE_MINUTES")
    done
    test_instructions
  fi
  say "all tests on Postgres $newest"
  WALFERRY_TEST_PG=$newest cargo test --locked "$@"
}

# The tests of bounds at the sizes the promises are stated for; prints the figures.
cmd_bounds() {
  cd "$ROOT" || exit
  ensure_rust
  ensure_setup "$(default_major)"
  begin_test_run disk
  start_test_kafka
  WALFERRY_BOUNDS=full WALFERRY_TEST_PG=$(default_major) \
    cargo test --release --locked --test bounds "$@" -- --nocapture --test-threads 1
}
