# shellcheck shell=bash
# One ClickHouse in one directory:
#   DIR/data, DIR/log, DIR/pid    DIR/port, DIR/secure-port  chosen once, kept over restarts
#   DIR/settings, DIR/users       name=value and name:password, one a line    DIR/tls  certificates
# A clickhouse-server in PATH, or, as no registry has a package of it, its engine from PyPI behind the HTTP front of
# tests/support/clickhouse_facade.py.

readonly CHDB_VERSION=26.9.0
# Older ones do not delete rows by ReplacingMergeTree.
readonly CLICKHOUSE_OLDEST=23
readonly CLICKHOUSE_FACADE=$ROOT/tests/support/clickhouse_facade.py

SERVER_USERS=() # name:password of those that it lets in; none: default without password

# Whether the clickhouse-server in PATH is to be used.
has_clickhouse_server() {
  local major
  command -v clickhouse-server >/dev/null || return 1
  major=$(clickhouse-server --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p' | head -n1)
  [[ ${major:-0} -ge $CLICKHOUSE_OLDEST ]]
}

fetch_chdb() {
  local work
  [[ ! -d $DIST/chdb-$CHDB_VERSION ]] || return 0
  [[ $(uname -m) == x86_64 || $(uname -m) == aarch64 ]] ||
    die "ClickHouse's engine is not packaged for $(uname -m)" "with a clickhouse-server of $CLICKHOUSE_OLDEST or newer in PATH nothing is fetched"
  say "fetching ClickHouse's engine (chdb-core $CHDB_VERSION)"
  work=$(mktemp -d "$DIST/.chdb.XXXXXX")
  quietly "fetching chdb-core from PyPI" "$LOG/fetch-chdb.log" \
    python3 -m pip install --quiet --no-deps --target "$work" "chdb-core==$CHDB_VERSION"
  chmod -R a+rX "$work"
  mv -- "$work" "$DIST/chdb-$CHDB_VERSION"
}

ensure_clickhouse() {
  ! has_clickhouse_server || return 0
  [[ ! -d $DIST/chdb-$CHDB_VERSION ]] || return 0
  python3 -m pip --version >/dev/null 2>&1 || ensure_packages yes
  with_fetch_lock fetch_chdb
}

# Quoted, as an & would else stand for what is replaced.
xml_text() {
  local text=${1//&/"&amp;"}
  text=${text//</"&lt;"}
  printf '%s' "${text//>/"&gt;"}"
}

# The settings of a real server, written at each start.
write_clickhouse_config() {
  local dir=$1 setting user secure=
  [[ ! -f $dir/secure-port ]] || secure="<https_port>$(<"$dir/secure-port")</https_port><openSSL><server>
    <certificateFile>$dir/tls/clickhouse.crt</certificateFile><privateKeyFile>$dir/tls/clickhouse.key</privateKeyFile>
    <verificationMode>none</verificationMode></server></openSSL>"
  cat >"$dir/config.xml" <<XML
<clickhouse>
  <logger><level>information</level><console>true</console></logger>
  <listen_host>127.0.0.1</listen_host><http_port>$(<"$dir/port")</http_port>$secure
  <path>$dir/data/</path><tmp_path>$dir/data/tmp/</tmp_path><user_files_path>$dir/data/user_files/</user_files_path>
  <format_schema_path>$dir/data/format_schemas/</format_schema_path>
  <users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
  <mark_cache_size>67108864</mark_cache_size>
</clickhouse>
XML
  {
    echo '<clickhouse><profiles><default>'
    while IFS= read -r setting; do echo "<${setting%%=*}>$(xml_text "${setting#*=}")</${setting%%=*}>"; done <"$dir/settings"
    echo '</default></profiles><quotas><default></default></quotas><users>'
    while IFS= read -r user; do
      echo "<${user%%:*}><password>${user#*:}</password><networks><ip>::/0</ip></networks><profile>default</profile>"
      echo "<quota>default</quota><access_management>1</access_management></${user%%:*}>"
    done < <(if [[ -s $dir/users ]]; then cat "$dir/users"; else echo default:; fi)
    echo '</users></clickhouse>'
  } >"$dir/users.xml"
}

launch_clickhouse() {
  local dir=$1 line
  local -a more=()
  if has_clickhouse_server; then
    write_clickhouse_config "$dir"
    start_detached "$dir/pid" "$dir/log" clickhouse-server --config-file="$dir/config.xml"
    return 0
  fi
  [[ ! -f $dir/secure-port ]] || more+=(--secure-port "$(<"$dir/secure-port")" --certificate "$dir/tls/clickhouse.pem")
  while IFS= read -r line; do more+=(--set "$line"); done <"$dir/settings"
  while IFS= read -r line; do more+=(--user "$line"); done <"$dir/users"
  start_detached "$dir/pid" "$dir/log" env PYTHONPATH="$DIST/chdb-$CHDB_VERSION" PYTHONDONTWRITEBYTECODE=1 TZ=UTC \
    python3 "$CLICKHOUSE_FACADE" --data "$dir/data" --port "$(<"$dir/port")" "${more[@]}"
}

# clickhouse_query PORT QUERY: the rows as lines, values by tabs; 1 with the error's text when it fails.
clickhouse_query() {
  local answer
  # shellcheck disable=SC2016 # the inner shell expands its own arguments
  answer=$(timeout 60 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && LC_ALL=C &&
    printf "POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" "${#2}" "$2" >&3 && cat <&3' _ "$1" "$2") || return 1
  answer+=$'\n' # which $() took away
  printf '%s' "${answer#*$'\r\n\r\n'}"
  [[ $answer == HTTP/1.?\ 200* ]]
}

# Ready, or ended before it was.
clickhouse_settled() {
  process_is_gone "$1/pid" || [[ $(http_get "$(<"$1/port")" /ping) == HTTP/1.?\ 200* ]]
}

# Notes what the options ask for: note_clickhouse_options DIR TLS [name=value…]; users come in SERVER_USERS.
note_clickhouse_options() {
  local dir=$1 tls=$2 setting
  shift 2
  touch -- "$dir/settings" "$dir/users"
  for setting in "$@"; do
    [[ $setting =~ ^[A-Za-z0-9_]+= ]] || die "--set wants name=value, not '$setting'"
    sed -i "/^${setting%%=*}=/d" "$dir/settings"
    printf '%s\n' "$setting" >>"$dir/settings"
  done
  [[ ${#SERVER_USERS[@]} -eq 0 ]] || printf '%s\n' "${SERVER_USERS[@]}" >"$dir/users"
  if [[ $tls == yes && ! -f $dir/secure-port ]]; then
    make_certificates "$dir/tls" clickhouse
    free_port >"$dir/secure-port"
  fi
}

# clickhouse_start DIR TLS [name=value…]: the server in DIR, made if it is not there. Ready when it returns.
clickhouse_start() {
  local dir=$1 tls=$2 try chosen=no
  shift 2
  mkdir -p -- "$dir/data"
  dir=$(readlink -f -- "$dir")
  remember_server "$dir" clickhouse
  note_clickhouse_options "$dir" "$tls" "$@"
  if running_process "$dir/pid" >/dev/null; then
    say "ClickHouse in $dir runs already; its settings apply after a restart"
    return 0
  fi
  [[ ! -f $dir/port ]] || chosen=yes
  for try in 1 2 3; do
    [[ $chosen == yes ]] || free_port >"$dir/port"
    [[ ! -f $dir/log ]] || cat "$dir/log" >>"$dir/log.old"
    : >"$dir/log"
    launch_clickhouse "$dir"
    if wait_until 90 clickhouse_settled "$dir" && ! process_is_gone "$dir/pid"; then return 0; fi
    # Somebody may have taken the port since it was found free.
    if [[ $chosen == yes || $try == 3 ]] || ! grep -q 'Address already in use' "$dir/log"; then break; fi
  done
  [[ $chosen == yes ]] || rm -f -- "$dir/port"
  show_log_end "$dir/log"
  die "ClickHouse in $dir did not start" "its log: $dir/log"
}

# clickhouse_stop DIR MODE: fast lets requests in hand end, immediate kills.
clickhouse_stop() {
  local dir=$1 signal=TERM
  [[ ${2:-fast} != immediate ]] || signal=KILL
  stop_process "$dir/pid" "$signal" 20
  forget_server "$dir"
}
