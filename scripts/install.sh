#!/usr/bin/env bash
# `install.sh install BINARY` puts the binary, the systemd units and the documentation below PREFIX (/usr/local);
# `install.sh uninstall` removes them again, and no data. With DESTDIR everything goes below that, as packagers want it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
prefix=${PREFIX:-/usr/local}
bindir=$prefix/bin unitdir=${UNITDIR:-$prefix/lib/systemd/system} docdir=$prefix/share/doc/sandpiper
sysconfdir=${SYSCONFDIR:-/etc}
units=(sandpiper sandpiper-host-agent sandpiper-control-plane)

say() { printf 'install: %s\n' "$*" >&2; }

# Where systemd runs and the files are its own.
reload() {
    if [ -z "${DESTDIR:-}" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

install_all() {
    local unit
    install -D -m 0755 "$1" "${DESTDIR:-}$bindir/sandpiper.new"
    # In one step: a server that starts meanwhile gets the old one or the new one.
    mv -f "${DESTDIR:-}$bindir/sandpiper.new" "${DESTDIR:-}$bindir/sandpiper"
    for unit in "${units[@]}"; do
        install -d -m 0755 "${DESTDIR:-}$unitdir"
        sed -e "s|@bindir@|$bindir|g" -e "s|@docdir@|$docdir|g" -e "s|@sysconfdir@|$sysconfdir|g" \
            "$root/systemd/$unit.service.in" >"${DESTDIR:-}$unitdir/$unit.service"
        chmod 0644 "${DESTDIR:-}$unitdir/$unit.service"
    done
    install -D -m 0644 -t "${DESTDIR:-}$docdir" "$root"/docs/{api,operate,compatibility,compatibility-e2b,e2b}.md "$root/README.md"
    reload
    say "installed; 'systemctl enable --now sandpiper' starts it, 'systemctl restart sandpiper' upgrades one that runs"
}

uninstall_all() {
    local unit
    for unit in "${units[@]}"; do
        if [ -z "${DESTDIR:-}" ] && [ -d /run/systemd/system ] && systemctl is-active -q "$unit"; then
            say "$unit.service is running: end it first, with its sandboxes if they are not to run on"
            exit 1
        fi
    done
    for unit in "${units[@]}"; do rm -f "${DESTDIR:-}$unitdir/$unit.service"; done
    rm -f "${DESTDIR:-}$bindir/sandpiper"
    rm -rf "${DESTDIR:-}$docdir"
    reload
    say "removed; data is left in /var/lib/sandpiper and settings in $sysconfdir/sandpiper"
}

case ${1:-} in
    install) install_all "${2:?the binary}" ;;
    uninstall) uninstall_all ;;
    *) say 'usage: install.sh install BINARY | uninstall' && exit 64 ;;
esac
