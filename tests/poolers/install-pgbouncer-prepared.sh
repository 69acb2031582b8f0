#!/bin/sh
# Installs the PgBouncer of the next Debian release as pgbouncer-prepared, beside the system's own, with its own loader and
# libraries: Debian 12 has 1.18, and prepared statements are known since 1.21. For root, on Debian.
set -eu
command -v pgbouncer-prepared >/dev/null && exit 0
release=trixie
into=/usr/local/lib/pgbouncer-prepared
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$into"

# The same mirror as the machine's own.
mirror=$(sed -n 's/^URIs: \(.*\/debian\)\/\{0,1\}$/\1/p' /etc/apt/sources.list.d/*.sources | head -n 1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror $release main" >"$work/sources.list"
apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
apt update
cd "$work/debs"
for package in pgbouncer libc6 libcares2 libevent-2.1-7t64 libssl3t64 libsystemd0 libpam0g libldap2 libsasl2-2 libcap2 \
    libaudit1 libcap-ng0 libgcc-s1 zlib1g libzstd1; do
    apt download "$package/$release"
done
for deb in *.deb; do dpkg-deb --extract "$deb" "$into"; done

libraries=$(dirname "$(find "$into" -name 'ld-linux*.so.*' | head -n 1)")
cat >/usr/local/bin/pgbouncer-prepared <<EOF
#!/bin/sh
exec $(find "$into" -name 'ld-linux*.so.*' | head -n 1) --library-path $libraries $into/usr/sbin/pgbouncer "\$@"
EOF
chmod 755 /usr/local/bin/pgbouncer-prepared
pgbouncer-prepared --version | head -n 1
