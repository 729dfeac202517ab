# shellcheck shell=bash
# Functions that prepare a bare Debian 12/13 or Ubuntu 22.04/24.04 machine: packages, locale, build user, Rust.
#
# ./check and .ci/run source this file. Each function installs only what is missing and says so first.

readonly rust=1.94.1 # the oldest version that can build the workspace, as in Cargo.toml

say() { printf '== %s\n' "$*" >&2; }

fail() {
  printf '%s: %s\n' "$0" "$*" >&2
  exit 3
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "this needs root, and there is no sudo: $*"
  fi
}

# Each program that BitBake needs of its host or that compiles the agent, and its Debian package.
host_programs() {
  cat <<'LIST'
git git
python3 python3
gcc gcc
g++ g++
make make
curl curl
chrpath chrpath
cpio cpio
diffstat diffstat
file file
gawk gawk
hostname hostname
lz4c lz4
makeinfo texinfo
patch patch
perl perl
rpcgen rpcsvc-proto
socat socat
unzip unzip
wget wget
which debianutils
xz xz-utils
zstd zstd
LIST
}

# usage: missing_packages <LIST   prints the packages of the missing programs
missing_packages() {
  local program package
  while read -r program package; do
    command -v "$program" >/dev/null || echo "$package"
  done
  [ -e /usr/share/i18n/locales/en_US ] || echo locales
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

install_packages() {
  [ "$#" -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    fail "these packages are missing, and there is no apt-get to install them: $*"
  say "installing packages: $*"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

has_locale() { locale -a 2>/dev/null | grep -i '^en_US\.utf-\?8$' >/dev/null; }

install_locale() {
  has_locale || {
    say 'making the locale en_US.UTF-8'
    as_root localedef -i en_US -f UTF-8 en_US.UTF-8
  }
}

# BitBake refuses root, so an agent that runs as root runs layer code as this user.
needs_build_user() { [ "$(id -u)" = 0 ] && ! getent passwd builder >/dev/null; }

make_build_user() {
  if needs_build_user; then
    say 'making the user builder, which runs layer code'
    useradd --create-home --shell /bin/bash builder
  fi
}

# usage: has_rust [COMPONENT…]   whether Rust is new enough, and cargo has these components
has_rust() {
  # shellcheck source=/dev/null
  [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
  local component
  for component in "$@"; do
    cargo "$component" --version >/dev/null 2>&1 || return 1
  done
  command -v cargo >/dev/null &&
    printf '%s\n' "$rust" "$(rustc --version | cut -d' ' -f2)" | sort --version-sort --check=quiet
}

# usage: install_rust [COMPONENT…]   such as `clippy fmt`
install_rust() {
  has_rust "$@" && return
  say "installing Rust by rustup, because no Rust $rust or newer is there"
  local component components=()
  for component in "$@"; do
    [ "$component" != fmt ] || component=rustfmt
    components+=(--component "$component")
  done
  curl --proto '=https' --tlsv1.2 --silent --show-error --fail --retry 3 https://sh.rustup.rs |
    sh -s -- -y --quiet --profile minimal ${components[@]+"${components[@]}"} ||
    fail 'rustup could not install Rust; see https://rustup.rs'
  # shellcheck source=/dev/null
  . "$HOME/.cargo/env"
}
