# shellcheck shell=bash
# Chromium with its driver, for the tests of the status page: those in PATH, or Debian's packages.

readonly BROWSER_PACKAGES=(chromium chromium-driver)

# Chromium has too many libraries to be unpacked beside the system as others are: it is installed.
ensure_browser() {
  ! { command -v chromium && command -v chromedriver; } >/dev/null || return 0
  { command -v apt-get && may_install; } >/dev/null || return 1
  say "installing by apt: ${BROWSER_PACKAGES[*]}"
  { apt_as_root update && apt_as_root install "${BROWSER_PACKAGES[@]}"; } >"$LOG/browser.log" 2>&1
}

# Says where the driver is, for the tests. CI must have it; a person whose machine cannot is told.
find_browser() {
  WALFERRY_CHROMEDRIVER=none
  if ensure_browser; then
    WALFERRY_CHROMEDRIVER=$(command -v chromedriver)
  elif [[ -n ${CI:-} ]]; then
    die "chromium and chromedriver are missing and cannot be installed (see $LOG/browser.log)"
  else
    say "the status page is not tested: no chromium and chromedriver (have root run: apt-get install ${BROWSER_PACKAGES[*]})"
  fi
  export WALFERRY_CHROMEDRIVER
}
