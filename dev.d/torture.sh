# shellcheck shell=bash
# ./dev torture: the program is tests/torture; here the machine is made ready for it, and everything it
# started is stopped, also when it was killed.

readonly TOXIPROXY_VERSION=2.5.0
readonly SMALL_DISK_SIZE=768m

# The proxy for link faults, built once.
ensure_toxiproxy() {
  local dir=$DIST/toxiproxy-$TOXIPROXY_VERSION
  [[ ! -x $dir/server ]] || return 0
  if ! command -v go >/dev/null; then
    command -v apt-get >/dev/null || die "toxiproxy needs Go to be built, and there is none" "install Go, then run ./dev torture again"
    say "installing golang by apt, to build toxiproxy"
    quietly "apt-get update" "$LOG/apt.log" apt_as_root update
    quietly "apt-get install golang" "$LOG/apt.log" apt_as_root install golang-go ca-certificates
  fi
  say "building toxiproxy $TOXIPROXY_VERSION (once)"
  mkdir -p -- "$dir"
  quietly "building toxiproxy" "$LOG/toxiproxy.log" \
    env GOBIN="$dir" go install "github.com/Shopify/toxiproxy/v2/cmd/server@v$TOXIPROXY_VERSION"
}

# Sets WALFERRY_FAKETIME to Debian's library for clock faults, or to nothing.
find_faketime() {
  local library
  WALFERRY_FAKETIME=
  for library in /usr/lib/*/faketime/libfaketimeMT.so.1; do
    [[ ! -f $library ]] || WALFERRY_FAKETIME=$library
  done
  if [[ -z $WALFERRY_FAKETIME && $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
    say "installing libfaketime by apt, for clock faults"
    if apt_as_root update >"$LOG/apt.log" 2>&1 && apt_as_root install libfaketime >>"$LOG/apt.log" 2>&1; then
      for library in /usr/lib/*/faketime/libfaketimeMT.so.1; do WALFERRY_FAKETIME=$library; done
    fi
  fi
  [[ -n $WALFERRY_FAKETIME ]] || say "clock faults are skipped: libfaketime is not installed (apt-get install libfaketime)"
  export WALFERRY_FAKETIME
}

# Sets WALFERRY_SMALL_DISK to a file system that can be filled, or to nothing.
mount_small_disk() {
  local dir=$1/small-disk
  mkdir -p -- "$dir"
  WALFERRY_SMALL_DISK=
  if [[ $EUID -eq 0 ]] && mount -t tmpfs -o "size=$SMALL_DISK_SIZE,mode=755" walferry-torture "$dir" 2>/dev/null; then
    own_by_server_user "$dir"
    WALFERRY_SMALL_DISK=$dir
  else
    say "disk-full faults are skipped: mounting a tmpfs needs root"
  fi
  export WALFERRY_SMALL_DISK
}

# Stops all that a run has started, by process id. Its logs stay when it failed.
end_torture() {
  local status=$? dir=$1 note pid
  trap - EXIT
  if [[ -s $dir/paused ]]; then
    while read -r pid; do kill -CONT "$pid" 2>/dev/null || true; done <"$dir/paused"
  fi
  for note in "$dir"/pids/*; do [[ ! -f $note ]] || stop_process "$note" KILL 10; done
  (server_stop_all "$dir" immediate) >/dev/null 2>&1 || true
  if mountpoint -q "$dir/small-disk"; then
    [[ $status -eq 0 ]] || cp -- "$dir/small-disk/follower-b/log" "$dir/follower-b.log" 2>/dev/null || true
    umount "$dir/small-disk" || say "cannot unmount $dir/small-disk"
  fi
  if [[ $status -eq 0 ]]; then rm -rf -- "$dir"; else say "logs and data are kept in $dir"; fi
  exit "$status"
}

# The built program. It is run directly, not by cargo, which Ctrl-C would end before the program has cleaned up.
torture_program() {
  cargo test --quiet --locked --test torture --no-run --message-format=json |
    sed -n 's/.*"name":"torture".*"executable":"\([^"]*\)".*/\1/p'
}

cmd_torture() {
  local program dir
  cd "$ROOT" || die "cannot enter $ROOT"
  program=$(torture_program)
  [[ -x $program ]] || die "the torture test cannot be built"
  if [[ " $* " == *" --list"* || " $* " == *" --help"* ]]; then
    "$program" "$@"
    return
  fi
  ensure_setup "$(default_major)"
  ensure_toxiproxy
  find_faketime
  # As part of a test run, beside its other servers.
  dir=${TEST_DIR:-$STACK}/torture/run-$$
  mkdir -p -- "$STACK/torture"
  make_servers_dir "$dir" disk
  # shellcheck disable=SC2064 # the directory as it is now
  trap "end_torture '$dir'" EXIT
  mount_small_disk "$dir"
  export WALFERRY_DEV=$ROOT/dev WALFERRY_STACK=$STACK WALFERRY_TORTURE_DIR=$dir
  export WALFERRY_TOXIPROXY=$DIST/toxiproxy-$TOXIPROXY_VERSION/server WALFERRY_TORTURE_REPORT=$STACK/torture/report.json
  WALFERRY_KAFKA_HEAP=384m "$program" "$@" &
  await_program $!
}

# Waits for the program's own end; it stops in order when it is told to.
await_program() {
  local pid=$1 status=0
  # shellcheck disable=SC2064 # the pid as it is now
  trap "kill -TERM $pid 2>/dev/null || true" INT TERM
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal ends bash's wait, not the program
    status=0
    wait "$pid" || status=$?
  done
  return "$status"
}
