# shellcheck shell=bash
# Where things live, and which user runs Postgres (it refuses to run as root).

# The ordinary user for Postgres when we are root; empty when we are one ourselves.
SERVER_USER=
if [[ $EUID -eq 0 ]]; then
  if id -u postgres >/dev/null 2>&1; then SERVER_USER=postgres; else SERVER_USER=walferry-dev; fi
fi

# Made only when needed: nothing else on the machine is touched.
ensure_server_user() {
  [[ -n $SERVER_USER ]] || return 0
  id -u "$SERVER_USER" >/dev/null 2>&1 && return 0
  say "creating the system user $SERVER_USER (Postgres refuses to run as root)"
  useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$SERVER_USER" ||
    die "cannot create the user $SERVER_USER" "run ./dev as an ordinary user, or create that user by hand"
}

# Runs a command as the user of the Postgres servers, from a directory that user may be in.
as_server_user() {
  if [[ -n $SERVER_USER ]]; then
    (cd / && exec runuser -u "$SERVER_USER" -- env LC_ALL=C.UTF-8 "$@")
  else
    (cd / && exec env LC_ALL=C.UTF-8 "$@")
  fi
}

own_by_server_user() { [[ -z $SERVER_USER ]] || chown -R "$SERVER_USER:" -- "$@"; }

# Whether a clone (say, in /root) is closed to the user that runs Postgres.
closed_to_server_user() {
  [[ -n $SERVER_USER ]] && id -u "$SERVER_USER" >/dev/null 2>&1 && ! as_server_user test -x "$1"
}

# .stack/ lives in the clone, or, when Postgres's user cannot get there, under /var/tmp with a link to it.
place_stack() {
  if [[ -n ${WALFERRY_STACK:-} ]]; then
    mkdir -p -- "$WALFERRY_STACK"
    STACK=$(readlink -f -- "$WALFERRY_STACK")
  else
    STACK=$ROOT/.stack
    if [[ ! -e $STACK ]]; then
      ensure_server_user
      if closed_to_server_user "$ROOT"; then
        local elsewhere
        elsewhere=$(mktemp -d /var/tmp/walferry-stack.XXXXXX)
        chmod 755 "$elsewhere"
        ln -s "$elsewhere" "$STACK"
        say "user $SERVER_USER cannot enter $ROOT, so servers live in $elsewhere (.stack links there)"
      fi
    fi
    mkdir -p -- "$STACK"
    STACK=$(readlink -f -- "$STACK")
  fi
  DIST=${WALFERRY_DIST:-$STACK/dist}
  RUN=$STACK/run
  LOG=$STACK/log
  mkdir -p -- "$DIST" "$RUN/servers" "$LOG"
}
place_stack
readonly SERVER_USER STACK DIST RUN LOG

# What a directory of throw-away servers may grow to, and what must be left beside it, in KiB.
readonly MEMORY_DIR_KIB=$((10 << 20)) MEMORY_LEFT_KIB=$((6 << 20))

plenty_of_memory() {
  local free available
  free=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) || free=0
  available=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
  [[ ${free:-0} -ge $MEMORY_DIR_KIB && ${available:-0} -ge $((MEMORY_DIR_KIB + MEMORY_LEFT_KIB)) ]]
}

# make_servers_dir DIR memory|disk: for the servers of one test run; in memory, with a link, where there is plenty. Tests are of
# walferry, not of the disk: on a busy one a broker's fsync for each new topic takes seconds, a test hundreds.
make_servers_dir() {
  local dir=$1 where=$2 memory
  mkdir -p -- "$(dirname -- "$dir")"
  chmod 755 "$(dirname -- "$dir")"
  if [[ $where == memory ]] && plenty_of_memory && memory=$(mktemp -d /dev/shm/walferry-test.XXXXXX 2>/dev/null); then
    ln -s -- "$memory" "$dir"
  else
    mkdir -p -- "$dir"
  fi
  chmod 755 "$dir/"
  own_by_server_user "$dir/"
}

remove_servers_dir() {
  [[ ! -L $1 ]] || rm -rf -- "$(readlink -f -- "$1")"
  rm -rf -- "$1"
}

# Moves what is kept for a person out of memory.
keep_servers_dir() {
  local memory
  [[ -L $1 ]] || return 0
  memory=$(readlink -f -- "$1")
  rm -- "$1"
  cp -a --sparse=always -- "$memory" "$1" && rm -rf -- "$memory"
}
