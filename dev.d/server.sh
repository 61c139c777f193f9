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
  ./dev server clickhouse start   DIR [--user NAME:PASSWORD]… [--tls] [--set name=value]…
                                                                     prints: port=NNNN pid=NNNN [secure=H:P ca=FILE]
  ./dev server clickhouse stop    DIR [--mode fast|immediate]
  ./dev server clickhouse restart DIR [--mode fast|immediate] [--set name=value]…
  ./dev server mariadb start    DIR [--version 10.11|11.4] [--tls] [--set name=value]…
                                                                     prints: port=NNNN pid=NNNN [ca=FILE]
  ./dev server mariadb stop     DIR [--mode fast|immediate]
  ./dev server mariadb restart  DIR [--mode fast|immediate] [--set name=value]…
  ./dev server mariadb client   DIR [arguments]                 its client program, as user walferry
  ./dev server list             every server started and not stopped: kind, state, directory
  ./dev server stop-all [DIR]   stops all of them, or those below DIR, at once

DIR is made on start and keeps data, log and port over restarts; start on an old DIR continues with its data.
Postgres: superuser postgres without password, database postgres, 127.0.0.1 only, wal_level=logical, fsync=off
unless --set fsync=on; log in DIR/log. DIR must be reachable for the user that runs it: below .stack/ it is.
Kafka: --brokers 1 to 5, each also a controller; replication factors 3 and min.insync.replicas 2 from 3 brokers on;
logs in DIR/node-N/log. --mode immediate kills. --user, when DIR is made, adds a SASL_SSL listener (secure=) with that
user for PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512; DIR/tls/ca.pem is the authority that signed its certificate.
ClickHouse: its HTTP interface on 127.0.0.1; user default without password, or those of --user and no other; --set is a
setting of every query; --tls adds a port for HTTPS (secure=), whose authority is ca=. It is the clickhouse-server in PATH
(23 or newer) or ClickHouse's engine of PyPI behind a small HTTP front (tests/support/clickhouse_facade.py says what it lacks).
MariaDB: user walferry with password secret and all rights, root without password, 127.0.0.1 only; 11.4 if not said; --set is
an option of its option file; with --tls it speaks TLS, and ca= is the authority.
HELP
}

# Which servers run is kept in one small file each, so that stop-all finds what a killed test left behind.
server_note() { printf '%s\n' "$RUN/servers/${1//\//%}"; }
remember_server() { printf '%s %s\n' "$2" "$1" >"$(server_note "$1")"; }
forget_server() { rm -f -- "$(server_note "$(readlink -f -- "$1")")"; }

# Reads the options all actions share into MAJOR, VERSION, BROKERS, ONLY_NODE, MODE, TLS, SETTINGS, SERVER_USERS.
# shellcheck disable=SC2034 # ONLY_NODE is read in kafka.sh
read_server_options() {
  MAJOR='' VERSION='' BROKERS=1 ONLY_NODE='' MODE=fast TLS=no SETTINGS=() SERVER_USERS=()
  while [[ $# -gt 0 ]]; do
    if [[ $1 == --tls ]]; then
      TLS=yes
      shift
      continue
    fi
    [[ $# -ge 2 ]] || die "option $1 needs a value, or is not known" "./dev server help"
    case $1 in
      --major) MAJOR=$2 ;;
      --version) VERSION=$2 ;;
      --brokers) BROKERS=$2 ;;
      --node) ONLY_NODE=$2 ;;
      --mode) MODE=$2 ;;
      --set) SETTINGS+=("$2") ;;
      --user)
        [[ $2 =~ ^[A-Za-z0-9_-]+:[A-Za-z0-9_-]+$ ]] || die "--user wants NAME:PASSWORD of letters, digits, _ and -, not '$2'"
        SERVER_USERS+=("$2")
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
  # shellcheck disable=SC2034 # read in kafka.sh
  KAFKA_USERS=("${SERVER_USERS[@]}")
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

server_clickhouse() {
  local action=$1 dir=$2
  shift 2
  read_server_options "$@"
  case $action in
    stop) [[ ! -d $dir ]] || clickhouse_stop "$dir" "$MODE" ;;
    start | restart)
      [[ $action == start ]] || clickhouse_stop "$dir" "$MODE"
      ensure_clickhouse
      clickhouse_start "$dir" "$TLS" "${SETTINGS[@]}"
      printf 'port=%s pid=%s' "$(<"$dir/port")" "$(running_process "$dir/pid")"
      [[ ! -f $dir/secure-port ]] || printf ' secure=127.0.0.1:%s ca=%s' "$(<"$dir/secure-port")" "$(readlink -f -- "$dir/tls/ca.pem")"
      printf '\n'
      ;;
    *) die "unknown action '$action'" "./dev server help" ;;
  esac
}

server_mariadb() {
  local action=$1 dir=$2
  shift 2
  if [[ $action == client ]]; then
    [[ -f $dir/port ]] || die "there is no MariaDB in $dir" "./dev server mariadb start $dir"
    mariadb_client "$dir" "$@"
    return
  fi
  read_server_options "$@"
  case $action in
    stop) [[ ! -d $dir ]] || mariadb_stop "$dir" "$MODE" ;;
    start | restart)
      [[ $action == start ]] || mariadb_stop "$dir" "$MODE"
      [[ -n $VERSION || ! -f $dir/version ]] || VERSION=$(<"$dir/version")
      VERSION=${VERSION:-$MARIADB_NEWEST}
      ensure_mariadb "$VERSION"
      mariadb_start "$dir" "$VERSION" "$TLS" "${SETTINGS[@]}"
      printf 'port=%s pid=%s' "$(<"$dir/port")" "$(running_process "$dir/pid")"
      [[ ! -f $dir/tls/ca.pem ]] || printf ' ca=%s' "$(readlink -f -- "$dir/tls/ca.pem")"
      printf '\n'
      ;;
    *) die "unknown action '$action'" "./dev server help" ;;
  esac
}

server_state() {
  local kind=$1 dir=$2 node
  case $kind in
    postgres) if pg_pid "$dir" >/dev/null; then echo running; return 0; fi ;;
    prometheus | clickhouse | mariadb) if running_process "$dir/pid" >/dev/null; then echo running; return 0; fi ;;
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
      prometheus | clickhouse | mariadb)
        if [[ -d $dir ]]; then ("${kind}_stop" "$dir" "$mode") & else rm -f -- "$(server_note "$dir")"; fi
        ;;
      kafka) if [[ -d $dir ]]; then (ONLY_NODE='' kafka_stop "$dir" "$mode") & else rm -f -- "$(server_note "$dir")"; fi ;;
    esac
  done < <(remembered_servers "$below")
  wait
}

cmd_server() {
  case ${1:-help} in
    postgres | kafka | clickhouse | mariadb)
      [[ $# -ge 3 ]] || die "usage: ./dev server $1 start|stop|restart DIR" "./dev server help"
      "server_$1" "${@:2}"
      ;;
    list) server_list ;;
    stop-all) server_stop_all "${@:2}" ;;
    help | -h | --help) server_help ;;
    *) die "unknown server '$1'" "./dev server help" ;;
  esac
}
