# shellcheck shell=bash
# A leader, a follower, Kafka and Prometheus that belong together: ./dev up keeps one such stack, ./dev demo another.

# The database walferry's own config/ and connectors/ speak of.
readonly STACK_DATABASE=shop

# Runs psql for scripts: no start-up file, plain output, stops at the first error.
sql() {
  local url=$1
  shift
  PGOPTIONS='-c client_min_messages=warning' "$(pg_clients)/psql" -X -q -At -v ON_ERROR_STOP=1 -d "$url" "$@"
}

stack_url() { printf 'postgres://postgres@127.0.0.1:%s/%s\n' "$(<"$1/port")" "$STACK_DATABASE"; }

# Starts one of the stack's Postgres servers with its database.
start_stack_postgres() {
  local dir=$1 major=$2 port
  pg_start "$dir" "$major" fsync=on
  port=$(<"$dir/port")
  if [[ $(sql "postgres://postgres@127.0.0.1:$port/postgres" -c "SELECT count(*) FROM pg_database WHERE datname = '$STACK_DATABASE'") == 0 ]]; then
    sql "postgres://postgres@127.0.0.1:$port/postgres" -c "CREATE DATABASE $STACK_DATABASE"
  fi
}

# Prometheus is there to look at, nothing depends on it: a machine that cannot have it goes without.
start_stack_prometheus() {
  local dir=$1 scraped=$2
  if ! ensure_prometheus; then
    say "going without Prometheus: it is not installed and cannot be fetched from Debian (see $LOG/fetch-prometheus.log)"
  elif ! prometheus_start "$dir" "$scraped"; then
    prometheus_stop "$dir" immediate
    say "going without Prometheus: it did not start (see $dir/log)"
  fi
}

# Where a stack's Prometheus answers; fails where there is none.
stack_prometheus_url() {
  running_process "$STACK/$1/prometheus/pid" >/dev/null || return 1
  printf 'http://127.0.0.1:%s\n' "$(<"$STACK/$1/prometheus/port")"
}

say_prometheus() {
  local url
  ! url=$(stack_prometheus_url "$1") || say "Prometheus $url"
}

# start_stack NAME: all at once. Their addresses go to .stack/run/NAME.env and, as the newest, .stack/run/env.
start_stack() {
  local name=$1 major dir=$STACK/$1 failed=no pid
  local -a starts=()
  major=$(default_major)
  [[ ! -f $dir/leader/major ]] || [[ $(<"$dir/leader/major") == "$major" ]] ||
    die "the data in $dir is of Postgres $(<"$dir/leader/major"), not $major" "./dev down --wipe deletes it; PG_VERSION=$(<"$dir/leader/major") keeps it"
  mkdir -p -- "$dir"
  (start_stack_postgres "$dir/leader" "$major") &
  starts+=($!)
  (start_stack_postgres "$dir/follower" "$major") &
  starts+=($!)
  if [[ -z ${WALFERRY_KAFKA:-} ]]; then
    (kafka_start "$dir/kafka" 1) &
    starts+=($!)
  fi
  [[ -f $dir/http-port ]] || free_port >"$dir/http-port"
  (start_stack_prometheus "$dir/prometheus" "$(<"$dir/http-port")") &
  starts+=($!)
  for pid in "${starts[@]}"; do wait "$pid" || failed=yes; done
  [[ $failed == no ]] || die "not everything started; the reason is above"
  write_stack_env "$name"
  link_stack_logs "$dir"
}

write_stack_env() {
  local name=$1 dir=$STACK/$1 kafka=${WALFERRY_KAFKA:-} url
  [[ -n $kafka ]] || kafka=$(<"$dir/kafka/bootstrap")
  cat >"$RUN/$name.env" <<ENV
# Written by ./dev; to be sourced.
export LEADER_PORT=$(<"$dir/leader/port")
export FOLLOWER_PORT=$(<"$dir/follower/port")
export KAFKA_PORT=${kafka##*:}
export HTTP_PORT=$(<"$dir/http-port")
export WALFERRY_LEADER_URL=$(stack_url "$dir/leader")
export WALFERRY_FOLLOWER_URL=$(stack_url "$dir/follower")
export WALFERRY_KAFKA=$kafka
export WALFERRY_HTTP=127.0.0.1:$(<"$dir/http-port")
ENV
  ! url=$(stack_prometheus_url "$name") || echo "export PROMETHEUS_URL=$url" >>"$RUN/$name.env"
  cp -- "$RUN/$name.env" "$RUN/env"
}

# One place to look for logs and process ids, whatever the stack.
link_stack_logs() {
  local dir=$1 part pid
  for part in leader follower; do
    ln -sfn "$dir/$part/log" "$LOG/$part.log"
    pg_pid "$dir/$part" >"$RUN/$part.pid"
  done
  [[ -n ${WALFERRY_KAFKA:-} ]] || {
    ln -sfn "$dir/kafka/node-1/log" "$LOG/kafka.log"
    pid=$(running_process "$dir/kafka/node-1/pid")
    echo "$pid" >"$RUN/kafka.pid"
  }
  if pid=$(running_process "$dir/prometheus/pid"); then
    ln -sfn "$dir/prometheus/log" "$LOG/prometheus.log"
    echo "$pid" >"$RUN/prometheus.pid"
  fi
}

stop_stack() {
  local name=$1
  server_stop_all "$STACK/$name" "${2:-fast}"
  rm -f -- "$RUN"/{leader,follower,kafka,prometheus}.pid
}

# The stack a command without a name means: the demo while it runs, else ./dev up's.
use_running_stack() {
  local name
  for name in demo up; do
    if [[ -f $RUN/$name.env ]] && pg_pid "$STACK/$name/leader" >/dev/null; then
      # shellcheck source=/dev/null
      source "$RUN/$name.env"
      return 0
    fi
  done
  die "no servers are running" "./dev up starts them"
}

stack_kafka_address() {
  if [[ -n ${WALFERRY_KAFKA:-} ]]; then
    printf '%s\n' "$WALFERRY_KAFKA"
  else
    (use_running_stack && printf '%s\n' "$WALFERRY_KAFKA")
  fi
}

cmd_up() {
  ensure_setup "$(default_major)"
  start_stack up
  say "leader    psql '$(stack_url "$STACK/up/leader")'    (./dev psql leader)"
  say "follower  psql '$(stack_url "$STACK/up/follower")'    (./dev psql follower)"
  say "Kafka     ${WALFERRY_KAFKA:-$(cat "$STACK/up/kafka/bootstrap" 2>/dev/null)}"
  say_prometheus up
  say "addresses as shell variables: source $RUN/env; logs: $LOG/"
}

cmd_down() {
  local wipe=no name
  case ${1:-} in
    '') ;;
    --wipe) wipe=yes ;;
    *) die "unknown option $1" "./dev down [--wipe]" ;;
  esac
  for name in up demo; do
    [[ $name != demo ]] || stop_process "$STACK/demo/walferry.pid"
    [[ $name != demo ]] || stop_process "$STACK/demo/load.pid"
    stop_stack "$name"
    [[ $wipe == no ]] || rm -rf -- "${STACK:?}/$name" "$RUN/$name.env" "$RUN/env"
  done
}

cmd_psql() {
  local which=${1:-}
  use_running_stack
  case $which in
    leader) exec "$(pg_clients)/psql" -d "$WALFERRY_LEADER_URL" "${@:2}" ;;
    follower) exec "$(pg_clients)/psql" -d "$WALFERRY_FOLLOWER_URL" "${@:2}" ;;
    *) die "./dev psql leader|follower [psql's arguments]" ;;
  esac
}

cmd_client() {
  local program=$1
  [[ -x $(pg_clients)/$program ]] || ensure_setup "$(default_major)"
  exec "$(pg_clients)/$program" "${@:2}"
}
