# shellcheck shell=bash
# What must come from the distribution: compilers, Java, Maven. Only what is missing, only by apt.

# Rust comes from its own installer: distributions' are too old.
ensure_rust() {
  command -v cargo >/dev/null || die "Rust is missing (no cargo in PATH)" "install it as https://rustup.rs says, then open a new shell"
}

# Prints the packages whose programs or headers are not there.
missing_packages() {
  local need_fetch=$1
  command -v cc >/dev/null || echo gcc libc6-dev
  command -v c++ >/dev/null || echo g++
  command -v make >/dev/null || echo make
  command -v pkg-config >/dev/null || echo pkg-config
  [[ -e /usr/include/openssl/ssl.h ]] || echo libssl-dev
  [[ -e /usr/include/zlib.h ]] || echo zlib1g-dev
  command -v unzip >/dev/null || echo unzip
  command -v xz >/dev/null || echo xz-utils
  command -v openssl >/dev/null || echo openssl # certificates of a secured Kafka
  if [[ -z ${WALFERRY_KAFKA:-} || $need_fetch == yes ]]; then
    [[ -n ${JAVA_HOME:-} ]] || command -v java >/dev/null || echo default-jre-headless
  fi
  if [[ $need_fetch == yes ]]; then
    command -v mvn >/dev/null || echo maven
    python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
  fi
}

# Whether this user can become root: is it, or has a sudo that needs no password or can ask for one.
may_install() { [[ $EUID -eq 0 ]] || { command -v sudo >/dev/null && { [[ -t 2 ]] || sudo -n true 2>/dev/null; }; }; }

apt_as_root() {
  local -a sudo=()
  [[ $EUID -eq 0 ]] || sudo=(sudo)
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends "$@"
}

# Installs what missing_packages names.
ensure_packages() {
  local -a missing
  read -ra missing <<<"$(missing_packages "$1" | tr '\n' ' ')"
  [[ ${#missing[@]} -gt 0 ]] || return 0
  command -v apt-get >/dev/null ||
    die "missing: ${missing[*]} (names of Debian packages), and this system has no apt-get" "install their equivalents, then run ./dev again"
  may_install ||
    die "missing: ${missing[*]}, and $(id -un) can install nothing (is not root and has no sudo)" \
      "have root run: apt-get install --no-install-recommends ${missing[*]}"
  say "installing by apt: ${missing[*]}"
  quietly "apt-get update" "$LOG/apt.log" apt_as_root update
  quietly "apt-get install" "$LOG/apt.log" apt_as_root install "${missing[@]}"
}

# The Java program, checked: Kafka 4's broker needs 17.
java_program() {
  if [[ -n ${JAVA_HOME:-} ]]; then printf '%s\n' "$JAVA_HOME/bin/java"; else command -v java; fi
}

ensure_java_is_new_enough() {
  local version
  version=$("$(java_program)" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n1)
  [[ ${version:-0} -ge 17 ]] || die "Java ${version:-of unknown version} found, Kafka needs 17 or newer" "set JAVA_HOME to a newer one"
}
