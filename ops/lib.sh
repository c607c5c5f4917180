# What the commands in this directory share; to be sourced.
# shellcheck shell=bash

# Ends the command: meridian_fail MESSAGE [HINT]
meridian_fail() {
    printf 'ERROR:  %s\n' "$1" >&2
    if [[ -n ${2:-} ]]; then printf 'HINT:  %s\n' "$2" >&2; fi
    exit 1
}

# Installs those of the named Debian packages that are missing: meridian_require_packages PACKAGE...
meridian_require_packages() {
    local package missing=()
    for package in "$@"; do
        if [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
            missing+=("$package")
        fi
    done
    if ((${#missing[@]} == 0)); then return; fi

    command -v apt-get >/dev/null || meridian_fail "missing: ${missing[*]}" "install them; there is no apt-get to do it"
    printf 'installing %s\n' "${missing[*]}" >&2
    if ! meridian_apt install "${missing[@]}"; then
        meridian_apt update
        meridian_apt install "${missing[@]}"
    fi
}

# Runs apt-get without questions: meridian_apt COMMAND [ARGUMENT...]
meridian_apt() {
    local as_root=() settings=/etc/postgresql-common/createcluster.d
    if ((EUID != 0)); then
        command -v sudo >/dev/null || meridian_fail "installing packages needs root" "run this as root, or install sudo"
        as_root=(sudo)
    fi
    # Keeps the postgresql package from starting a server of its own on port 5432, for this installation only.
    "${as_root[@]}" mkdir -p "$settings"
    printf 'create_main_cluster = false\n' | "${as_root[@]}" tee "$settings/meridian-install.conf" >/dev/null
    local status=0
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends "$@" >&2 ||
        status=$?
    "${as_root[@]}" rm -f "$settings/meridian-install.conf"
    return "$status"
}

# Ends the command when there is no Swift compiler.
meridian_require_swift() {
    command -v swift >/dev/null ||
        meridian_fail "there is no Swift" "install Swift 6.1 or newer: https://swift.org/install"
}

# Builds a program as it is to be run and measured: meridian_build_release PRODUCT. With Swift's runtime linked in, a
# statement takes a node an eighth less than with its shared libraries.
meridian_build_release() {
    swift build --configuration release --static-swift-stdlib --product "$1" >&2
}

# Everything that building and running Meridian takes.
meridian_require_everything() {
    meridian_require_swift
    meridian_require_packages libpg-query-dev libpq-dev libprotobuf-c-dev openssl pkg-config postgresql
}

# The clients and drivers that tests run against a node.
meridian_require_test_clients() {
    meridian_require_packages curl default-jdk-headless etcd-server libpostgresql-jdbc-java patroni python3-asyncpg \
        python3-psycopg python3-psycopg2 python3-sqlalchemy
}
