# shellcheck shell=bash
# ./dev bench: the benchmark is bench/replication; here it gets a broker of its own and is run.

# Servers, and a Debezium that a benchmark cut short has left.
end_bench() {
  local dir=$1 pid_file
  for pid_file in "$dir"/debezium*/pid; do stop_process "$pid_file" KILL 5; done
  (server_stop_all "$dir" immediate) >/dev/null 2>&1 || true
  rm -rf -- "$dir"
}

cmd_bench() {
  local dir=$STACK/bench-$$
  ensure_rust
  ensure_setup "$(default_major)"
  if [[ " $* " == *" sinks "* ]]; then
    ensure_clickhouse
    ensure_mariadb "$MARIADB_NEWEST"
  fi
  cd "$ROOT" || die "cannot enter $ROOT"
  mkdir -p -- "$dir"
  own_by_server_user "$dir"
  # shellcheck disable=SC2064 # the directory as it is now
  trap "end_bench '$dir'" EXIT
  cargo bench --locked --bench replication --no-run
  WALFERRY_KAFKA_HEAP=1g kafka_start "$dir/kafka" 1
  WALFERRY_TEST_KAFKA=$(<"$dir/kafka/bootstrap")
  WALFERRY_BENCH_KAFKA_PIDS=$(cut -d ' ' -f 1 "$dir"/kafka/node-*/pid | paste -sd ,)
  export WALFERRY_TEST_KAFKA WALFERRY_BENCH_KAFKA_PIDS
  export WALFERRY_DEV=$ROOT/dev WALFERRY_STACK=$STACK WALFERRY_TEST_DIR=$dir
  cargo bench --quiet --locked --bench replication -- "$@"
}
