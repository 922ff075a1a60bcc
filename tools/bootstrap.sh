#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install what the make targets need and this machine lacks, and say what is done.
#
#   tools/bootstrap.sh demo    runtime + reference interpreter, ARM compiler and emulator
#   tools/bootstrap.sh test    the same, and what the tests, linters and benchmarks need
#
# Debian packages are installed only as root or with passwordless sudo. Otherwise the missing ones are named; what can't be done without
# (Python, its venv module, a C compiler) ends the script, the rest is left out: the demo then runs on the board `native`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose=${1:?usage: tools/bootstrap.sh demo|test}
venv=${VENV:-.venv}

say() { printf '== %s\n' "$*"; }

# The first interpreter this library supports (3.10 to 3.13); empty if there is none.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

host_compiler_works() {
    local compiler
    compiler=$(command -v gcc || command -v clang || command -v cc)
    [ -n "$compiler" ] && echo '#include <stdio.h>' | "$compiler" -E -x c - >/dev/null 2>&1
}

# Debian packages for what is missing here, one a line.
missing_packages() {
    local python=$1
    [ -n "$python" ] || echo python3
    if [ ! -x "$venv/bin/python" ]; then
        [ -n "$python" ] && "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    fi
    command -v gcc clang cc >/dev/null || echo gcc
    host_compiler_works || echo libc6-dev # which gcc only recommends
    command -v arm-none-eabi-gcc >/dev/null || echo gcc-arm-none-eabi
    case $(arm-none-eabi-gcc -print-file-name=libc.a 2>/dev/null || true) in /*) ;; *) echo libnewlib-arm-none-eabi ;; esac
    command -v qemu-system-arm >/dev/null || echo qemu-system-arm
    [ "$purpose" != test ] || command -v clang >/dev/null || echo clang
}

# The command that may run apt-get here: nothing as root, sudo where it asks for no password; fails where neither can.
elevated() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null && echo sudo; }
}

install_packages() {
    local sudo
    if sudo=$(elevated); then
        say "installing Debian packages: $*"
        $sudo apt-get update -qq
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
        return
    fi
    say "missing, and this user can't install them (no root, no passwordless sudo, or no apt-get). Please run:"
    echo "     sudo apt-get update && sudo apt-get install $*"
    local package
    for package in "$@"; do
        case $package in
            python3* | gcc | libc6-dev) say "$package can't be done without"; exit 4 ;;
        esac
    done
    say "going on without: emulated boards are left out"
}

# Virtual environment with this checkout installed; redone when pyproject.toml or the purpose changed.
install_python_packages() {
    local python=$1 extras=reference stamp
    [ "$purpose" = demo ] || extras=dev
    stamp="$extras $(cksum <pyproject.toml)"
    if [ "$extras" = reference ] && grep -qsxF "dev $(cksum <pyproject.toml)" "$venv/.tvm_tiny"; then
        return # the larger set is there
    fi
    if grep -qsxF "$stamp" "$venv/.tvm_tiny"; then
        return
    fi
    [ -x "$venv/bin/python" ] || { say "making the virtual environment $venv"; "$python" -m venv "$venv"; }
    say "installing tvm_tiny[$extras] and what it needs into $venv (first time: a few minutes)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
    echo "$stamp" >"$venv/.tvm_tiny"
}

python=$(find_python)
mapfile -t packages < <(missing_packages "$python")
if [ ${#packages[@]} -gt 0 ]; then
    install_packages "${packages[@]}"
    python=$(find_python)
fi
if [ -z "$python" ]; then
    say "no Python 3.10 to 3.13 found; name one with PYTHON=/path/to/python3"
    exit 4
fi
install_python_packages "$python"
