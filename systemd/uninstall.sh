#!/bin/sh
# `make uninstall`: remove what `make install` made. Audits, configs, settings and the user stay.
set -eu
if [ -e "$DESTDIR$PREFIX" ] && [ ! -e "$DESTDIR$PREFIX/share/benchd/installed" ]; then
    echo "make uninstall: make install did not create $DESTDIR$PREFIX" >&2
    exit 1
fi
if [ -n "${FOR_USER:-}" ]; then
    systemctl --user disable --now benchd.service 2>/dev/null || :
    rm -rf "$DESTDIR$PREFIX" "$DESTDIR$USERUNITDIR/benchd.service"
    echo "removed; these stay: $CONFDIR and your audits"
    exit
fi
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now benchd.service 2>/dev/null || :
    systemctl stop 'benchd@*.service' 2>/dev/null || :
fi
rm -f "$DESTDIR$UNITDIR/benchd.service" "$DESTDIR$UNITDIR/benchd@.service" "$DESTDIR$USERUNITDIR/benchd.service" \
    "$DESTDIR$SYSUSERSDIR/benchd.conf" "$DESTDIR$TMPFILESDIR/benchd.conf"
rm -rf "$DESTDIR$PREFIX"
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
echo "removed; these stay: $CONFDIR, /var/lib/benchd, /var/log/benchd and the user benchd"
