# shellcheck shell=bash
# Everything a command needs, fetched if it is missing: quick when all is there, safe to call first everywhere.

# Whether anything must still be fetched (then Maven and pip are needed too).
something_to_fetch() {
  local major
  [[ -n ${WALFERRY_KAFKA:-} || -f $(kafka_template)/bootstrap.checkpoint ]] || return 0
  pg_clients >/dev/null || return 0
  for major in "$@"; do [[ -x $(pg_bin "$major")/postgres && -d $DIST/pgdata-$major ]] || return 0; done
  return 1
}

fetch_all() {
  local major
  ensure_server_user
  for major in "$@"; do
    fetch_postgres "$major"
    make_pg_template "$major"
  done
  fetch_pg_clients
  if [[ -z ${WALFERRY_KAFKA:-} ]]; then
    ensure_java_is_new_enough
    fetch_kafka
    make_kafka_template
  fi
}

# ensure_setup MAJOR…: programs, headers, servers.
ensure_setup() {
  local major
  for major in "$@"; do pg_full_version "$major" >/dev/null; done
  if something_to_fetch "$@"; then
    with_fetch_lock ensure_packages yes
    with_fetch_lock fetch_all "$@"
  else
    with_fetch_lock ensure_packages no
  fi
}

# Kafka's own tools are a part of it: needed also where WALFERRY_KAFKA names somebody else's broker.
ensure_kafka_tools() {
  ! compgen -G "$(kafka_libs)/kafka-tools-*.jar" >/dev/null || return 0
  WALFERRY_KAFKA='' with_fetch_lock ensure_packages yes
  ensure_java_is_new_enough
  with_fetch_lock fetch_kafka
}

cmd_setup() {
  [[ $# -gt 0 ]] || set -- "$(default_major)"
  ensure_setup "$@"
  say "ready: Postgres $* ($(pg_bin "$1")), clients $(pg_clients), Kafka ${WALFERRY_KAFKA:-$(kafka_libs)}"
}
