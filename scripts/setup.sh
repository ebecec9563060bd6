# Sourced by scripts/demo, scripts/test and scripts/bench: makes .venv from a lock file.
#
#   setup_venv requirements.lock        run the appliance
#   setup_venv requirements-dev.lock    run the checks too
#
# Uses uv where it is on PATH, else venv and pip. Debian ships Python without venv and pip; then, in this
# order: apt-get install (root), Debian's own pip wheel unpacked into .venv (anybody with apt), or a message.

edge_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${EDGE_PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    say "dicom-edge needs Python 3.11 or newer, and found none on PATH."
    say "Install python3 (Debian 12 has 3.11) or set EDGE_PYTHON to one, then run this again."
    return 1
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >&2; }

# Debian's pip as a wheel, without root: apt-get into a folder of our own, unpacked, never installed.
unpack_debian_pip() {
    local into=$1 apt
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mkdir -p "$into/lists/partial" "$into/archives/partial" || return 1
    apt=(-o "Dir::State::Lists=$into/lists" -o "Dir::Cache=$into" -o APT::Sandbox::User= -o "Debug::NoLocking=1")
    (cd "$into" && apt_get "${apt[@]}" update && apt_get "${apt[@]}" download python3-pip-whl) || return 1
    dpkg-deb -x "$into"/python3-pip-whl_*.deb "$into/unpacked" || return 1
    ls "$into"/unpacked/usr/share/python-wheels/pip-*.whl 2>/dev/null | head -n 1
}

make_venv() {
    local python=$1 wheel
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$python" "$edge_root/.venv" && return 0
    fi
    rm -rf "$edge_root/.venv"
    "$python" -m venv "$edge_root/.venv" >/dev/null 2>&1 && return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing python3-venv"
        apt_get update && apt_get install -y --no-install-recommends python3-venv
        rm -rf "$edge_root/.venv"
        "$python" -m venv "$edge_root/.venv" && return 0
    fi
    rm -rf "$edge_root/.venv"
    "$python" -m venv --without-pip "$edge_root/.venv" || return 1
    say "this Python has no pip: unpacking Debian's beside the environment"
    if wheel=$(unpack_debian_pip "$edge_root/.venv/debian-pip") && [ -n "$wheel" ]; then
        PYTHONPATH=$wheel "$edge_root/.venv/bin/python" -m pip install --quiet --no-warn-script-location pip >&2 &&
            rm -rf "$edge_root/.venv/debian-pip" && return 0
    fi
    say "This Python has neither venv nor pip, and they could not be fetched."
    say "Ask an administrator for: apt install python3-venv. Then run this again."
    rm -rf "$edge_root/.venv"
    return 1
}

install_locked() {
    local lock=$1
    if command -v uv >/dev/null; then
        VIRTUAL_ENV=$edge_root/.venv uv pip install --quiet --require-hashes -r "$edge_root/$lock" &&
            VIRTUAL_ENV=$edge_root/.venv uv pip install --quiet --no-deps -e "$edge_root"
    else
        "$edge_root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
            --require-hashes -r "$edge_root/$lock" >&2 &&
            "$edge_root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
                --no-warn-script-location --no-deps -e "$edge_root" >&2
    fi
}

# Done again only when the lock or the project file changed; a stamp is written last, so a cut run is redone.
setup_venv() {
    local lock=$1 stamp want python
    stamp=$edge_root/.venv/.installed-$lock
    want=$(cat "$edge_root/$lock" "$edge_root/pyproject.toml" | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && [ -x "$edge_root/.venv/bin/edge" ]; then
        return 0
    fi
    python=$(find_python) || return 1
    if ! "$edge_root/.venv/bin/python" -c 'import sys' 2>/dev/null; then
        say "making .venv with $("$python" --version)"
        make_venv "$python" || return 1
    fi
    say "installing what $lock names"
    if ! install_locked "$lock"; then
        say "Could not install the packages: see above. With the network back, run this again."
        return 1
    fi
    printf '%s\n' "$want" >"$stamp"
}
