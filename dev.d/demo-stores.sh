# shellcheck shell=bash
# ./dev demo --with clickhouse,mysql: more followers, in other stores. They are sinks of the same names.

DEMO_STORES=()

demo_stores_option() {
  local store
  IFS=, read -ra DEMO_STORES <<<"$1"
  [[ ${#DEMO_STORES[@]} -gt 0 ]] || die "--with wants clickhouse, mysql or clickhouse,mysql"
  for store in "${DEMO_STORES[@]}"; do
    [[ $store == clickhouse || $store == mysql ]] || die "no store '$store' for the demo" "--with clickhouse, --with mysql or --with clickhouse,mysql"
  done
}

# What is missing is fetched before the demo begins.
ensure_demo_stores() {
  local store
  for store in "${DEMO_STORES[@]}"; do
    case $store in
      clickhouse) ensure_clickhouse ;;
      mysql) ensure_mariadb "$MARIADB_NEWEST" ;;
    esac
  done
}

demo_store_url() {
  local port
  port=$(<"$DEMO/$1/port")
  case $1 in
    clickhouse) printf 'http://127.0.0.1:%s/%s\n' "$port" "$STACK_DATABASE" ;;
    mysql) printf 'mysql://walferry:secret@127.0.0.1:%s/%s\n' "$port" "$STACK_DATABASE" ;;
  esac
}

# Starts them and writes their connectors beside those of the demo without them.
start_demo_stores() {
  local store
  [[ ${#DEMO_STORES[@]} -gt 0 ]] || return 0
  mkdir -p -- "$DEMO_CONNECTORS"
  cp -- "$ROOT"/connectors/*.toml "$DEMO_CONNECTORS/"
  for store in "${DEMO_STORES[@]}"; do
    case $store in
      clickhouse) clickhouse_start "$DEMO/$store" no ;;
      mysql) mariadb_start "$DEMO/$store" "$MARIADB_NEWEST" no ;;
    esac
    printf '%s\n' "kind = \"$store\"" "url = \"$(demo_store_url "$store")\"" >"$DEMO_CONNECTORS/$store.toml"
    ln -sfn "$DEMO/$store/log" "$LOG/$store.log"
    say "$store $(demo_store_url "$store")"
  done
}

# How far behind each of them is, for a line of the table.
demo_stores_lag() {
  local store seconds
  for store in "${DEMO_STORES[@]}"; do
    seconds=$(sink_metric walferry_sink_lag_seconds "$store")
    if [[ -n $seconds ]]; then printf ' %s %.2f s' "$store" "$seconds"; else printf ' %s unknown' "$store"; fi
  done
}

store_shows() { [[ $(http_get "$HTTP_PORT" "/v1/sinks/$1/wait?lsn=$2&timeout_ms=100") == HTTP/1.?\ 200* ]]; }

await_demo_stores() {
  local lsn=$1 store
  for store in "${DEMO_STORES[@]}"; do
    wait_until "$DEMO_DRAIN_LIMIT_S" store_shows "$store" "$lsn" ||
      die "$store did not reach the leader's end $lsn within $DEMO_DRAIN_LIMIT_S s" \
        "it is at: $(http_get "$HTTP_PORT" "/v1/sinks/$store/position" | tail -n1)" "walferry's log: $DEMO/walferry.log"
    say "$store reached the leader's end"
  done
}

# Asks a store; rows as lines, values by tabs.
demo_store_query() {
  case $1 in
    clickhouse) clickhouse_query "$(<"$DEMO/clickhouse/port")" "$2" ;;
    mysql) mariadb_client "$DEMO/mysql" --batch --skip-column-names -e "$2" ;;
  esac
}

# The tables of the leader, one a line: name, TAB, what to select of it. Values print differently from store to store, sums of
# whole numbers and decimals do not: each table's rows are counted and its columns of numbers summed.
demo_sums() {
  sql "$WALFERRY_LEADER_URL" -F $'\t' <<'SQL'
SELECT c.relname, 'count(*)' || coalesce(string_agg(format(', sum(%s)', a.attname), '' ORDER BY a.attnum), '')
  FROM pg_class c
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                          AND a.atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype)
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
 GROUP BY c.relname ORDER BY c.relname
SQL
}

# Prints a table a store; 0 only if all counts and sums are equal.
compare_demo_stores() {
  local store tables table sums final mine theirs verdict all=yes
  tables=$(demo_sums)
  for store in "${DEMO_STORES[@]}"; do
    printf '%-28s %14s %14s  %s\n' "$store" 'rows leader' 'rows follower' 'rows and sums equal'
    final=''
    [[ $store != clickhouse ]] || final='FINAL SETTINGS output_format_decimal_trailing_zeros = 1'
    while IFS=$'\t' read -r table sums; do
      mine=$(sql "$WALFERRY_LEADER_URL" -F $'\t' -c "SELECT $sums FROM $table" </dev/null)
      theirs=$(demo_store_query "$store" "SELECT $sums FROM $STACK_DATABASE.$table $final" 2>/dev/null </dev/null) || theirs=missing
      verdict=yes
      if [[ $mine != "$theirs" ]]; then verdict=NO all=no; fi
      printf '%-28s %14s %14s  %s\n' "$table" "${mine%%$'\t'*}" "${theirs%%$'\t'*}" "$verdict"
    done <<<"$tables"
  done
  [[ $all == yes ]]
}
