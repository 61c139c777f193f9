# shellcheck shell=bash
# ./dev demo: a web shop on the leader, walferry behind it, the follower's lag before one's eyes, and at the
# end the question that counts: do leader and follower hold the same rows? Exit code 0 only if they do.

readonly DEMO=$STACK/demo
readonly DEMO_CONNECTORS=$DEMO/connectors # with --with; else those of the repository
readonly DEMO_SINK=follower     # the name of connectors/follower.toml
readonly DEMO_PAUSE_S=5         # how long the follower stands still in the middle
readonly DEMO_DRAIN_LIMIT_S=120 # how long the follower may take to catch up at the end

PAUSED_PIDS=() DEMO_STOP=no DEMO_SHOWN=0

demo_options() {
  DEMO_SECONDS='' DEMO_RATE=300
  while [[ $# -gt 0 ]]; do
    case $1 in
      --seconds) DEMO_SECONDS=${2:-} ;;
      --rate) DEMO_RATE=${2:-} ;;
      --with)
        demo_stores_option "${2:-}"
        shift 2
        continue
        ;;
      *) die "unknown option $1" "./dev demo [--seconds N] [--rate TRANSACTIONS_PER_SECOND] [--with clickhouse,mysql]" ;;
    esac
    [[ ${2:-} =~ ^[1-9][0-9]{0,5}$ ]] || die "$1 wants a whole number, not '${2:-}'"
    shift 2
  done
}

# Everything the demo started ends by its process id, whatever ended the demo. Data and logs stay for a look.
end_demo() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  wait # for servers that are just being started: what is half there cannot be stopped
  resume_follower
  stop_process "$DEMO/load.pid" TERM 5 || true
  stop_process "$DEMO/walferry.pid" TERM 20 || true
  (stop_stack demo immediate) || true
  # .stack/run/env names servers that run: ./dev up's again, if there are any.
  if [[ -f $RUN/up.env ]]; then cp -- "$RUN/up.env" "$RUN/env"; else rm -f -- "$RUN/env"; fi
  say "all stopped; logs and data stay in $DEMO until the next demo"
  exit "$status"
}

# Ctrl-C while the shop is busy means "enough, now compare"; anywhere else, and a second time, it means "end".
interrupted() {
  if [[ $DEMO_STOP == watching ]]; then DEMO_STOP=yes; else exit 130; fi
}

build_walferry() {
  [[ -z ${WALFERRY_BIN:-} ]] || return 0 # a binary built elsewhere
  ensure_rust
  say "building walferry (the first time takes some minutes)"
  (cd "$ROOT" && cargo build --release --locked)
  WALFERRY_BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release/walferry
}

# An own broker is empty. On a foreign one, topics of an earlier run would belong to a database that is gone.
refuse_old_topics() {
  local topics old
  [[ -n ${WALFERRY_KAFKA:-} && ! -f $DEMO/kafka/bootstrap ]] || return 0
  topics=$("$ROOT/dev" kafka-topics --list) || die "the broker $WALFERRY_KAFKA does not tell its topics"
  old=$(grep "^$STACK_DATABASE\." <<<"$topics" || true)
  [[ -z $old ]] || die "the broker $WALFERRY_KAFKA holds topics of an earlier pipeline '$STACK_DATABASE'" \
    "delete them first: ./dev kafka-topics --delete --topic '$STACK_DATABASE\\..*'"
}

start_walferry() {
  local connectors=$ROOT/connectors
  [[ ! -d $DEMO_CONNECTORS ]] || connectors=$DEMO_CONNECTORS
  # shellcheck source=/dev/null
  source "$RUN/demo.env"
  start_detached "$DEMO/walferry.pid" "$DEMO/walferry.log" \
    "$WALFERRY_BIN" run --config "$ROOT/config" --connectors "$connectors"
  ln -sfn "$DEMO/walferry.log" "$LOG/walferry.log"
  if ! wait_until 60 walferry_settled || process_is_gone "$DEMO/walferry.pid"; then
    show_log_end "$DEMO/walferry.log"
    die "walferry did not get ready" "its log: $DEMO/walferry.log"
  fi
}

walferry_settled() { process_is_gone "$DEMO/walferry.pid" || [[ $(http_get "$HTTP_PORT" /healthz) == HTTP/1.?\ 200* ]]; }

# sink_metric NAME SINK: the value of a metric with the sink's label; empty if it is absent, which means unknown.
sink_metric() {
  awk -v name="$1" -v label="sink=\"$2\"" 'index($0, name "{") == 1 && index($0, label) { print $NF; exit }' <<<"$METRICS"
}

start_load() {
  local sql=$PARTS/sql
  start_detached "$DEMO/load.pid" "$DEMO/load.log" \
    "$(pg_clients)/pgbench" -n -c 4 -j 1 -R "$DEMO_RATE" -P 1 -T 1000000 --max-tries=5 \
    -f "$sql/load-order.sql@40" -f "$sql/load-pay.sql@25" -f "$sql/load-ship.sql@12" -f "$sql/load-cancel.sql@8" \
    -f "$sql/load-price.sql@6" -f "$sql/load-delete.sql@6" -f "$sql/load-customer.sql@3" "$WALFERRY_LEADER_URL"
}

# pgbench reports "progress: 12.0 s, 301.0 tps, …" each second.
leader_rate() { sed -n 's/^progress: .* s, \([0-9.]*\) tps.*/\1/p' "$DEMO/load.log" | tail -n1; }

# Stands the follower still: its backends that serve walferry are stopped by signal, as a hung disk would do.
# The leader, Kafka and walferry itself notice nothing else.
pause_follower() {
  local pids
  pids=$(sql "$WALFERRY_FOLLOWER_URL" -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'psql'")
  read -ra PAUSED_PIDS <<<"${pids//$'\n'/ }"
  [[ ${#PAUSED_PIDS[@]} -eq 0 ]] || kill -STOP "${PAUSED_PIDS[@]}" 2>/dev/null || true
}

resume_follower() {
  [[ ${#PAUSED_PIDS[@]} -eq 0 ]] || kill -CONT "${PAUSED_PIDS[@]}" 2>/dev/null || true
  PAUSED_PIDS=()
}

human_bytes() {
  awk -v b="$1" 'BEGIN { if (b == "") { print "unknown"; exit } split("B kB MB GB TB", u, " ");
    for (i = 1; b >= 1000 && i < 5; i++) b /= 1000; printf (i == 1 ? "%d %s\n" : "%.1f %s\n"), b, u[i] }'
}

# One line of the live table. On a terminal the last 15 are redrawn in place, with a bar for the lag.
show_line() {
  local second=$1 note=$2 rate bytes seconds bar='' width line
  METRICS=$(http_get "$HTTP_PORT" /metrics || true)
  rate=$(leader_rate)
  bytes=$(sink_metric walferry_sink_lag_bytes "$DEMO_SINK")
  seconds=$(sink_metric walferry_sink_lag_seconds "$DEMO_SINK")
  width=$(awk -v s="${seconds:-0}" 'BEGIN { w = int(s * 4 + 0.5); print (w > 28 ? 28 : w) }')
  printf -v bar '%*s' "$width" ''
  bar=${bar// /▇}
  printf -v line '%5s s %9s tx/s %12s %10s  %s' "$second" "${rate:--}" "$(human_bytes "$bytes")" \
    "$(if [[ -n $seconds ]]; then printf '%.2f s' "$seconds"; else echo unknown; fi)" "$bar${note:+ $note}$(demo_stores_lag)"
  DEMO_LINES+=("$line")
  if [[ -t 1 ]]; then
    [[ $DEMO_SHOWN -eq 0 ]] || printf '\e[%dA' "$DEMO_SHOWN"
    [[ ${#DEMO_LINES[@]} -le 15 ]] || DEMO_LINES=("${DEMO_LINES[@]: -15}")
    printf '\e[2K\e[1m%7s %14s %12s %10s\e[0m\n' time leader lag lag
    printf '\e[2K%s\n' "${DEMO_LINES[@]}"
    DEMO_SHOWN=$((${#DEMO_LINES[@]} + 1))
  else
    [[ $DEMO_SHOWN -ne 0 ]] || printf '%7s %14s %12s %10s\n' time leader lag lag
    DEMO_SHOWN=1
    printf '%s\n' "$line"
  fi
}

require_running() {
  process_is_gone "$1" || return 0
  show_log_end "$3"
  die "$2 ended by itself" "its log: $3"
}

# The live table until the time is over or Ctrl-C.
watch_demo() {
  local second=0 pause_at=20 note start_ms
  DEMO_LINES=()
  [[ -z $DEMO_SECONDS ]] || pause_at=$((DEMO_SECONDS / 2))
  start_ms=$(now_ms)
  DEMO_STOP=watching
  while [[ $DEMO_STOP == watching && ( -z $DEMO_SECONDS || $second -lt $DEMO_SECONDS ) ]]; do
    second=$((second + 1))
    sleep_until $((start_ms + second * 1000))
    [[ $second -ne $pause_at ]] || pause_follower
    [[ $second -ne $((pause_at + DEMO_PAUSE_S)) ]] || resume_follower
    note=
    if [[ ${#PAUSED_PIDS[@]} -gt 0 ]]; then note='follower paused'; fi
    show_line "$second" "$note"
    require_running "$DEMO/walferry.pid" walferry "$DEMO/walferry.log"
    require_running "$DEMO/load.pid" "the load (pgbench)" "$DEMO/load.log"
  done
  DEMO_STOP=no
  resume_follower
}

# To a point in time, so that the seconds of the table do not drift. Ctrl-C ends the sleep, not the script.
sleep_until() {
  local left=$(($1 - $(now_ms)))
  ((left <= 0)) || sleep "$((left / 1000)).$(printf '%03d' $((left % 1000)))" || true
}

leader_is_quiet() {
  [[ $(sql "$WALFERRY_LEADER_URL" -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") == 0 ]]
}

# The follower's own checkpoint is the truth about what it has. It moves on while tables are still copied
# (which promise nothing until then), so no table may be left to come into effect.
follower_has() {
  [[ $(sql "$WALFERRY_FOLLOWER_URL" 2>/dev/null -v lsn="$1" <<'SQL'
SELECT count(*) > 0 AND bool_and(applied >= :'lsn'::pg_lsn AND state -> 'joins' = '[]'
       AND jsonb_array_length(state -> 'in_effect') >= jsonb_array_length(state -> 'log' -> 'captured'))
  FROM walferry.checkpoint;
SQL
  ) == t ]]
}

# Reached, or walferry is gone and waiting is pointless.
follower_settled() { follower_has "$1" || process_is_gone "$DEMO/walferry.pid"; }

await_follower() {
  local lsn started
  wait_until 10 leader_is_quiet || die "the load's sessions are still open on the leader"
  lsn=$(sql "$WALFERRY_LEADER_URL" -c 'SELECT pg_current_wal_flush_lsn()')
  started=$(now_ms)
  if ! wait_until "$DEMO_DRAIN_LIMIT_S" follower_settled "$lsn" || ! follower_has "$lsn"; then
    show_log_end "$DEMO/walferry.log"
    die "the follower did not reach the leader's end $lsn within $DEMO_DRAIN_LIMIT_S s" \
      "it has: $(sql "$WALFERRY_FOLLOWER_URL" -c 'SELECT applied FROM walferry.checkpoint' 2>&1)" "walferry's log: $DEMO/walferry.log"
  fi
  say "the follower reached the leader's end $lsn after $(($(now_ms) - started)) ms"
  await_demo_stores "$lsn"
}

cmd_demo() {
  demo_options "$@"
  ensure_setup "$(default_major)"
  ensure_demo_stores
  build_walferry
  stop_process "$DEMO/load.pid"
  stop_process "$DEMO/walferry.pid"
  stop_stack demo immediate
  rm -rf -- "$DEMO"
  trap end_demo EXIT
  trap interrupted INT TERM
  say "starting leader, follower (Postgres $(default_major)), Kafka and Prometheus"
  start_stack demo
  say_prometheus demo
  start_demo_stores
  refuse_old_topics
  say "loading the web shop into the leader"
  sql "$(stack_url "$DEMO/leader")" -f "$PARTS/sql/shop.sql" >/dev/null
  say "starting walferry (log: $DEMO/walferry.log) and $DEMO_RATE transactions a second on the leader"
  start_walferry
  start_load
  [[ -n $DEMO_SECONDS ]] || say "Ctrl-C ends the load and compares"
  watch_demo
  stop_process "$DEMO/load.pid" TERM 5
  say "load stopped; waiting for the follower"
  await_follower
  if compare_contents "$WALFERRY_LEADER_URL" "$WALFERRY_FOLLOWER_URL"; then
    say "EQUAL: the follower holds exactly what the leader holds"
  else
    die "NOT EQUAL: leader and follower differ (table above)" "walferry's log: $DEMO/walferry.log"
  fi
  compare_demo_stores || die "NOT EQUAL: leader and follower differ (table above)" "walferry's log: $DEMO/walferry.log"
}
