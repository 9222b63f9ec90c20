# Sourced by the scripts beside it.
# shellcheck shell=bash

say() { printf '── %s\n' "$*"; }

# One line that says what is wrong and what to do about it.
die() {
  printf '✗ %s\n' "$*" >&2
  exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# apt_install WHY PACKAGE...: never silently.
apt_install() {
  local why=$1
  shift
  say "$why: installing $* with apt (we are root)"
  # An interrupted run may have left dpkg half way.
  dpkg --configure -a
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
    die "apt could not install $*: run 'apt-get install $*' to see why."
}
