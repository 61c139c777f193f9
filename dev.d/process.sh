# shellcheck shell=bash
# Processes and ports. A process is only ever stopped by the id written down when it was started,
# together with its start time, so that a reused id never costs a stranger its life.

# The kernel's start time of a process (clock ticks since boot); empty if there is none.
process_start_time() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  stat=${stat##*) } # the name before may hold spaces and brackets
  local -a fields
  read -ra fields <<<"$stat"
  [[ ${fields[0]} != Z ]] || return 0 # a zombie has ended already
  printf '%s\n' "${fields[19]}"
}

# Writes "pid start-time".
remember_process() {
  local pid=$1 file=$2
  printf '%s %s\n' "$pid" "$(process_start_time "$pid")" >"$file"
}

# Prints the pid in a file if that very process still runs.
running_process() {
  local file=$1 pid started
  [[ -f $file ]] || return 1
  read -r pid started <"$file" || return 1
  [[ -n ${started:-} && $(process_start_time "$pid") == "$started" ]] || return 1
  printf '%s\n' "$pid"
}

process_is_gone() { ! running_process "$1" >/dev/null; }

# Stops the process of a pid file: asks, waits, and after the deadline forces it. Nothing to stop is fine.
stop_process() {
  local file=$1 signal=${2:-TERM} seconds=${3:-20} pid
  if pid=$(running_process "$file"); then
    kill -CONT "$pid" 2>/dev/null || true # a stopped process would not hear the next signal
    kill -"$signal" "$pid" 2>/dev/null || true
    if ! wait_until "$seconds" process_is_gone "$file"; then
      say "process $pid ($file) did not end within $seconds s after SIG$signal; killing it"
      kill -KILL "$pid" 2>/dev/null || true
      wait_until 5 process_is_gone "$file" || return 1
    fi
  fi
  rm -f -- "$file"
}

# Starts a command on its own, cut off from our terminal and pipes (a caller reading our stdout must see
# its end), in its own session so that Ctrl-C reaches us and not it. Sets STARTED_PID.
start_detached() {
  local pid_file=$1 log=$2
  shift 2
  setsid -- "$@" >>"$log" 2>&1 </dev/null 9>&- &
  STARTED_PID=$!
  disown "$STARTED_PID"
  remember_process "$STARTED_PID" "$pid_file"
}

port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# http_get PORT PATH: what a server on this machine answers, head and body; no curl needed.
http_get() {
  # shellcheck disable=SC2016 # the inner shell expands its own arguments
  timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" "$2" >&3 && cat <&3' \
    _ "$1" "$2" 2>/dev/null
}

# A port nobody listens on, below the range the kernel hands out for outgoing connections.
free_port() {
  local port try
  for try in {1..50}; do
    : "$try"
    port=$((15000 + (${SRANDOM:-$RANDOM} % 15000)))
    port_answers "$port" || { printf '%s\n' "$port"; return 0; }
  done
  die "no free TCP port found between 15000 and 30000 on 127.0.0.1"
}
