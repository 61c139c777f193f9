# shellcheck shell=bash
# ./dev server: single servers for tests and scripts. Results on stdout are one line of k=v; all else is on stderr.

server_help() {
  cat <<'HELP'
Usage:
  ./dev server postgres start   DIR [--major M] [--set name=value]…   prints: port=NNNN pid=NNNN
  ./dev server postgres stop    DIR [--mode fast|immediate]
  ./dev server postgres restart DIR [--mode fast|immediate] [--set name=value]…
  ./dev server kafka create     DIR [--brokers N]               ports and settings only, to be changed before the first start
  ./dev server kafka start      DIR [--brokers N] [--node N] [--user NAME:PASSWORD]… [--set name=value]…
                                                                     prints: bootstrap=H:P[,H:P…] pids=N[,N…] [secure=H:P[,H:P…]]
  ./dev server kafka stop       DIR [--node N] [--mode fast|immediate]
  ./dev server kafka restart    DIR [--node N] [--mode fast|immediate] [--set name=value]…
  ./dev server list             every server started and not stopped: kind, state, directory
  ./dev server stop-all [DIR]   stops all of them, or those below DIR, at once

DIR is made on start and keeps data, log and port over restarts; start on an old DIR continues with its data.
Postgres: superuser postgres without password, database postgres, 127.0.0.1 only, wal_level=logical, fsync=off
unless --set fsync=on; log in DIR/log. DIR must be reachable for the user that runs it: below .stack/ it is.
Kafka: --brokers 1 to 5, each also a controller; replication factors 3 and min.insync.replicas 2 from 3 brokers on;
logs in DIR/node-N/log. --mode immediate kills. --user, when DIR is made, adds a SASL_SSL listener (secure=) with that
user for PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512; DIR/tls/ca.pem is the authority that signed its certificate.
HELP
}

# Which servers run is kept in one small file each, so that stop-all finds what a killed test left behind.
server_note() { printf '%s\n' "$RUN/servers/${1//\//%}"; }
remember_server() { printf '%s %s\n' "$2" "$1" >"$(server_note "$1")"; }
forget_server() { rm -f -- "$(server_note "$(readlink -f -- "$1")")"; }

# Reads the options all actions share into MAJOR, BROKERS, ONLY_NODE, MODE, SETTINGS, KAFKA_USERS.
# shellcheck disable=SC2034 # ONLY_NODE and KAFKA_USERS are read in kafka.sh
read_server_options() {
  MAJOR='' BROKERS=1 ONLY_NODE='' MODE=fast SETTINGS=() KAFKA_USERS=()
  while [[ $# -gt 0 ]]; do
    [[ $# -ge 2 ]] || die "option $1 needs a value, or is not known" "./dev server help"
    case $1 in
      --major) MAJOR=$2 ;;
      --brokers) BROKERS=$2 ;;
      --node) ONLY_NODE=$2 ;;
      --mode) MODE=$2 ;;
      --set) SETTINGS+=("$2") ;;
      --user)
        [[ $2 =~ ^[A-Za-z0-9_-]+:[A-Za-z0-9_-]+$ ]] || die "--user wants NAME:PASSWORD of letters, digits, _ and -, not '$2'"
        KAFKA_USERS+=("$2")
        ;;
      *) die "unknown option $1" "./dev server help" ;;
    esac
    shift 2
  done
  [[ $MODE == fast || $MODE == immediate ]] || die "--mode must be fast or immediate, not '$MODE'"
  [[ $BROKERS =~ ^[1-5]$ ]] || die "--brokers must be 1 to 5, not '$BROKERS'"
}

server_postgres() {
  local action=$1 dir=$2
  shift 2
  read_server_options "$@"
  case $action in
    stop) [[ ! -d $dir ]] || pg_stop "$dir" "$MODE" ;;
    start | restart)
      [[ $action == start ]] || pg_stop "$dir" "$MODE"
      [[ -n $MAJOR || ! -f $dir/major ]] || MAJOR=$(<"$dir/major")
      MAJOR=${MAJOR:-$(default_major)}
      [[ -x $(pg_bin "$MAJOR")/postgres && -d $DIST/pgdata-$MAJOR ]] || ensure_setup "$MAJOR"
      pg_start "$dir" "$MAJOR" "${SETTINGS[@]}"
      printf 'port=%s pid=%s\n' "$(<"$dir/port")" "$(pg_pid "$dir")"
      ;;
    *) die "unknown action '$action'" "./dev server help" ;;
  esac
}

server_kafka() {
  local action=$1 dir=$2 node
  local -a pids=()
  shift 2
  read_server_options "$@"
  case $action in
    stop) [[ ! -d $dir ]] || kafka_stop "$dir" "$MODE" ;;
    create)
      [[ -f $(kafka_template)/bootstrap.checkpoint ]] || WALFERRY_KAFKA='' ensure_setup "$(default_major)"
      mkdir -p -- "$dir"
      create_kafka "$(readlink -f -- "$dir")" "$BROKERS"
      printf 'bootstrap=%s\n' "$(<"$dir/bootstrap")"
      ;;
    start | restart)
      [[ $action == start ]] || kafka_stop "$dir" "$MODE"
      [[ -f $(kafka_template)/bootstrap.checkpoint ]] || WALFERRY_KAFKA='' ensure_setup "$(default_major)"
      kafka_start "$dir" "$BROKERS" "${SETTINGS[@]}"
      for node in $(kafka_nodes "$dir"); do pids+=("$(running_process "$dir/node-$node/pid" || echo -)"); done
      printf 'bootstrap=%s pids=%s' "$(<"$dir/bootstrap")" "$(IFS=,; echo "${pids[*]}")"
      [[ ! -f $dir/secure ]] || printf ' secure=%s' "$(<"$dir/secure")"
      printf '\n'
      ;;
    *) die "unknown action '$action'" "./dev server help" ;;
  esac
}

server_state() {
  local kind=$1 dir=$2 node
  case $kind in
    postgres) if pg_pid "$dir" >/dev/null; then echo running; return 0; fi ;;
    prometheus) if running_process "$dir/pid" >/dev/null; then echo running; return 0; fi ;;
    kafka)
      for node in $(kafka_nodes "$dir"); do
        if running_process "$dir/node-$node/pid" >/dev/null; then echo running; return 0; fi
      done
      ;;
  esac
  echo dead
}

# Prints "kind dir" of the remembered servers below a directory.
remembered_servers() {
  local below=$1 note kind dir
  for note in "$RUN"/servers/*; do
    [[ -f $note ]] || continue
    read -r kind dir <"$note" || continue
    [[ -z $below || $dir == "$below" || $dir == "$below"/* ]] && printf '%s %s\n' "$kind" "$dir"
  done
  return 0
}

server_list() {
  local kind dir
  while read -r kind dir; do
    printf '%s %s %s\n' "$kind" "$(server_state "$kind" "$dir")" "$dir"
  done < <(remembered_servers '')
}

# Stops everything below a directory, at once rather than in turn.
server_stop_all() {
  local below=${1:-} mode=${2:-immediate} kind dir
  [[ -z $below ]] || below=$(readlink -m -- "$below")
  while read -r kind dir; do
    case $kind in
      postgres) if [[ -d $dir ]]; then (pg_stop "$dir" "$mode") & else rm -f -- "$(server_note "$dir")"; fi ;;
      prometheus) if [[ -d $dir ]]; then (prometheus_stop "$dir" "$mode") & else rm -f -- "$(server_note "$dir")"; fi ;;
      kafka) if [[ -d $dir ]]; then (ONLY_NODE='' kafka_stop "$dir" "$mode") & else rm -f -- "$(server_note "$dir")"; fi ;;
    esac
  done < <(remembered_servers "$below")
  wait
}

cmd_server() {
  case ${1:-help} in
    postgres | kafka)
      [[ $# -ge 3 ]] || die "usage: ./dev server $1 start|stop|restart DIR" "./dev server help"
      "server_$1" "${@:2}"
      ;;
    list) server_list ;;
    stop-all) server_stop_all "${@:2}" ;;
    help | -h | --help) server_help ;;
    *) die "unknown server '$1'" "./dev server help" ;;
  esac
}
