# shellcheck shell=bash
# What a person reads. Everything but a command's own result goes to stderr, so that scripts can parse stdout.

# One line of progress.
say() { printf '%s\n' "dev: $*" >&2; }

# Ends with what went wrong and, as further arguments, what to do about it.
die() {
  printf '%s\n' "dev: ERROR: $1" >&2
  shift
  local hint
  for hint in "$@"; do printf '%s\n' "dev:        $hint" >&2; done
  exit 1
}

# The end of a log, for an error: the reason is nearly always there.
show_log_end() {
  local file=$1 lines=${2:-15}
  [[ -s $file ]] || { printf '%s\n' "dev:        (log $file is empty)" >&2; return 0; }
  printf '%s\n' "dev:        last lines of $file:" >&2
  tail -n "$lines" -- "$file" | sed 's/^/  | /' >&2
}

# Runs a noisy command with its output in a log; shows the log only if it fails.
quietly() {
  local what=$1 log=$2
  shift 2
  mkdir -p -- "$(dirname -- "$log")"
  if ! "$@" >"$log" 2>&1 </dev/null; then
    show_log_end "$log"
    die "$what failed" "command: $*" "full log: $log"
  fi
}

now_ms() {
  local t=${EPOCHREALTIME/[^0-9]/}
  printf '%s\n' $((t / 1000))
}

# Polls a command until it succeeds: wait_until SECONDS COMMAND…; 1 when the deadline passes.
wait_until() {
  local deadline=$(($(now_ms) + $1 * 1000))
  shift
  until "$@"; do
    (($(now_ms) < deadline)) || return 1
    sleep 0.03
  done
}
