#!/usr/bin/env bash
# Makes a fresh Debian 12 ready to run Malbox from this checkout, and does nothing when it already is.
#
#   deploy/bootstrap.sh [--dev]       --dev: also what the checks and tests need
#
# Asks nothing. Prints the state directory on standard output, everything else on standard error.
set -euo pipefail

CHECKOUT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
SYSTEM_PYTHON=/usr/bin/python3
NEEDED_MIB=6144
LOCK="requirements.lock"
PACKAGE_LISTS=(deploy/packages.txt)
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*" >&2; }
die() { say "bootstrap: $*"; exit 1; }

# A directory that was half made when the power went is made again, not trusted: a stamp is the last thing written.
is_stamped() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

check_platform() {
    # shellcheck disable=SC1091
    . /etc/os-release
    [ "${ID:-}" = debian ] && [ "${VERSION_ID:-}" = 12 ] || die "needs Debian 12, this is ${PRETTY_NAME:-unknown}"
    [ "$(uname -m)" = x86_64 ] || die "needs x86_64, this is $(uname -m)"
}

missing_packages() {
    local wanted
    wanted="$(cd "$CHECKOUT" && sed -e 's/#.*//' -e 's/[[:space:]].*//' -e '/^$/d' "${PACKAGE_LISTS[@]}")"
    # shellcheck disable=SC2086  # one word per package
    dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' $wanted 2>/dev/null \
        | awk -v wanted="$wanted" '
            $2 == "installed" { have[$1] = 1 }
            END { n = split(wanted, names, /[ \n]+/); for (i = 1; i <= n; i++) if (!(names[i] in have)) print names[i] }
          ' || true
}

install_packages() {
    local missing
    missing="$(missing_packages | tr '\n' ' ')"
    [ -z "${missing// /}" ] && return
    if [ "$(id -u)" != 0 ]; then
        die "packages are missing. Run this once as root, then try again:
    apt-get update && env RUNLEVEL=1 apt-get install --no-install-recommends --yes $missing"
    fi
    say "installing: $missing"
    trap remove_policy EXIT
    forbid_services
    apt-get update --quiet --quiet >&2 || die "apt-get update failed: is a package mirror reachable?"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends --yes --quiet --quiet \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 $missing >&2 </dev/null || die "apt-get could not install: $missing"
    remove_policy
    trap - EXIT
}

# Packages start their services on installation unless this file says no (101: forbidden by policy). One that is
# already there is the operator's; ours is marked, so that a run which was killed cleans up after itself next time.
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK="# written by malbox for one installation"

forbid_services() {
    [ -e "$POLICY" ] && return
    printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
    chmod 755 "$POLICY"
}

remove_policy() {
    if [ -f "$POLICY" ] && grep -qxF "$POLICY_MARK" "$POLICY"; then rm -f "$POLICY"; fi
}

check_space() {
    local place="$1" free_mib
    while [ ! -d "$place" ]; do place="$(dirname "$place")"; done
    free_mib="$(df --output=avail --block-size=1M "$place" | tail -n 1 | tr -d ' ')"
    [ "$free_mib" -ge "$NEEDED_MIB" ] || die "$free_mib MiB free at $place, the first run needs $NEEDED_MIB MiB: make room"
}

# `.malbox` is the state directory, or leads to it. A state directory whose link is gone belongs to a checkout that was
# deleted and made again: nothing in it is known to fit, so it is thrown away unless something of it runs.
make_state() {
    local link="$CHECKOUT/.malbox" real
    real="$(cd "$CHECKOUT" && "$SYSTEM_PYTHON" -P -c '
import sys; sys.path.insert(0, "."); sys.dont_write_bytecode = True
from pathlib import Path
from deploy.local.state import locate
print(locate(Path.cwd()).root)')" || die "the state directory cannot be named"
    if [ -z "${MALBOX_STATE:-}" ] && [ "$real" != "$link" ]; then
        if [ ! -L "$link" ] && [ -d "$real" ]; then
            throw_away "$real"
        fi
        mkdir -p "$(dirname "$real")"
        chmod 711 "$(dirname "$real")"
        ln -sfn "$real" "$link"
    fi
    if [ ! -d "$real" ]; then
        check_space "$real"
        mkdir -p "$real" || die "$real cannot be made"
        chmod 711 "$real"
    fi
    printf '%s\n' "$real"
}

throw_away() {
    local pids
    pids="$(grep -lsFz "MALBOX_STATE=$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | tr '\n' ' ' || true)"
    [ -z "$pids" ] || die "$1 belongs to a checkout that was here before, and processes of it still run: $pids
Stop them, then run this again."
    say "throwing away $1: its checkout is gone"
    rm -rf --one-file-system -- "$1"
}

make_accounts() {
    (cd "$CHECKOUT" && PYTHONDONTWRITEBYTECODE=1 "$SYSTEM_PYTHON" -m deploy.local.accounts >&2)
}

make_uv() {
    local state="$1" pin="$CHECKOUT/deploy/uv.lock"
    local wanted
    wanted="$(sha256sum <"$pin")"
    is_stamped "$state/bootstrap/stamp" "$wanted" && return
    say "making the environment that holds uv"
    rm -rf -- "$state/bootstrap"
    "$SYSTEM_PYTHON" -m venv "$state/bootstrap" >&2
    "$state/bootstrap/bin/pip" install --quiet --disable-pip-version-check --no-input --require-hashes \
        --only-binary :all: -r "$pin" >&2 || die "uv could not be installed: is a package index reachable?"
    printf '%s' "$wanted" >"$state/bootstrap/stamp"
}

make_venv() {
    local state="$1" wanted
    wanted="$(sha256sum "$CHECKOUT/$LOCK" | cut -d' ' -f1) $LOCK $("$SYSTEM_PYTHON" -V)"
    is_stamped "$state/venv/stamp" "$wanted" && return
    # What the tests need contains what running needs: a venv for tests of the same release serves both.
    if [ "$LOCK" = requirements.lock ] && is_stamped "$state/venv/stamp-run" "$wanted"; then return; fi
    check_space "$state"
    say "installing the locked dependencies"
    make_uv "$state"
    local uv="$state/bootstrap/bin/uv"
    rm -f -- "$state/venv/stamp" "$state/venv/stamp-run"
    if ! "$state/venv/bin/python" -c '' 2>/dev/null; then
        rm -rf -- "$state/venv"
        "$uv" venv --quiet --no-config --python "$SYSTEM_PYTHON" "$state/venv" >&2
    fi
    "$uv" pip sync --quiet --no-config --require-hashes --compile-bytecode --link-mode copy \
        --python "$state/venv/bin/python" "$CHECKOUT/$LOCK" >&2 || die "the locked dependencies could not be installed"
    chmod -R go=u-w "$state/venv"
    printf '%s' "$(sha256sum "$CHECKOUT/requirements.lock" | cut -d' ' -f1) requirements.lock $("$SYSTEM_PYTHON" -V)" \
        >"$state/venv/stamp-run"
    printf '%s' "$wanted" >"$state/venv/stamp"
}

make_app() {
    local state="$1"
    (cd "$CHECKOUT" && PYTHONDONTWRITEBYTECODE=1 \
        "$SYSTEM_PYTHON" -m deploy.local.source "$CHECKOUT" "$state" "$state/venv/bin/python" >&2)
}

make_launcher() {
    local state="$1" launcher
    launcher="$(printf '#!/bin/sh\n# The malbox command of the installation in this directory.\nexport MALBOX_STATE=%q PYTHONPATH=%q\nexec %q -P -m cli "$@"' \
        "$state" "$state/app" "$state/venv/bin/python")"
    is_stamped "$state/bin/malbox" "$launcher" && return
    mkdir -p "$state/bin"
    printf '%s\n' "$launcher" >"$state/bin/malbox.new"
    chmod 755 "$state/bin/malbox.new"
    mv -f -- "$state/bin/malbox.new" "$state/bin/malbox"
}

main() {
    case "${1:-}" in
        "") ;;
        --dev)
            LOCK=requirements-dev.lock
            PACKAGE_LISTS+=(deploy/packages-dev.txt)
            ;;
        *) say "usage: deploy/bootstrap.sh [--dev]"; exit 2 ;;
    esac
    umask 022
    check_platform
    remove_policy_of_a_killed_run
    install_packages
    [ "$(id -u)" != 0 ] || make_accounts
    local state
    state="$(make_state)"
    exec 9>"$state/.bootstrap.lock"
    flock --timeout 900 9 || die "another bootstrap of $state has been running for a quarter of an hour"
    make_venv "$state"
    make_app "$state"
    make_launcher "$state"
    printf '%s\n' "$state"
}

remove_policy_of_a_killed_run() {
    if [ "$(id -u)" = 0 ]; then remove_policy; fi
}

main "$@"
