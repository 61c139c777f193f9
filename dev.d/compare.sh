# shellcheck shell=bash
# Whether two databases hold the same rows: each table's row count and a hash of its content that does not
# depend on the order of rows, computed by each server over the text of its rows.

# Settings that change how values print must be the same on both sides.
readonly COMPARE_OPTIONS='-c client_min_messages=warning -c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c bytea_output=hex -c extra_float_digits=1 -c lc_monetary=C'

compare_sql() {
  local url=$1
  shift
  PGOPTIONS=$COMPARE_OPTIONS "$(pg_clients)/psql" -X -q -At -F ' ' -v ON_ERROR_STOP=1 -d "$url" "$@"
}

# One query per table of the leader: "name" TAB "query". Columns are named, so their order does not matter.
# Sums of two 64-bit hashes: equal sums of different contents would be a coincidence of about 1 in 2^128.
comparison_queries() {
  compare_sql "$1" -F $'\t' <<'SQL'
SELECT format('%I.%I', n.nspname, c.relname),
       format('SELECT count(*), coalesce(sum(hashtextextended(t, 1)::numeric), 0), coalesce(sum(hashtextextended(t, 2)::numeric), 0)'
              || ' FROM (SELECT ROW(%s)::text AS t FROM %I.%I) AS rows',
              (SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attname)
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
              n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'walferry')
 ORDER BY 1
SQL
}

# Prints a table; 0 only if every table is equal and there is at least one.
compare_contents() {
  local leader=$1 follower=$2 table query mine theirs verdict all=yes tables=0 queries
  queries=$(comparison_queries "$leader")
  printf '%-28s %14s %14s  %s\n' table 'rows leader' 'rows follower' equal
  while IFS=$'\t' read -r table query; do
    [[ -n $table ]] || continue
    tables=$((tables + 1))
    mine=$(compare_sql "$leader" -c "$query" </dev/null)
    theirs=$(compare_sql "$follower" -c "$query" </dev/null 2>/dev/null) || theirs='missing'
    verdict=yes
    if [[ $mine != "$theirs" ]]; then verdict=NO all=no; fi
    printf '%-28s %14s %14s  %s\n' "$table" "${mine%% *}" "${theirs%% *}" "$verdict"
  done <<<"$queries"
  [[ $tables -gt 0 && $all == yes ]]
}

cmd_compare() {
  if [[ $# -eq 0 ]]; then
    use_running_stack
    set -- "$WALFERRY_LEADER_URL" "$WALFERRY_FOLLOWER_URL"
  fi
  [[ $# -eq 2 ]] || die "./dev compare [leader-url follower-url]"
  if compare_contents "$1" "$2"; then say "equal"; else die "leader and follower differ"; fi
}
