# shellcheck shell=bash
# ./dev bench: sets the stage and hands over to bench/run, which holds the measurement itself.

cmd_bench() {
  [[ -x $ROOT/bench/run ]] || die "there is no benchmark yet" "it belongs in bench/run (its load is in bench/load/)"
  ensure_setup "$(default_major)"
  (cd "$ROOT" && cargo build --release --locked)
  PG_CLIENTS=$(pg_clients)
  export PG_CLIENTS WALFERRY_DEV=$ROOT/dev WALFERRY_STACK=$STACK
  exec "$ROOT/bench/run" "$@"
}
