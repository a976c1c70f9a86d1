#!/bin/sh
# `make uninstall`: removes what `make install` made. Audits, configs, settings and the account stay.
set -eu
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
echo "removed; left as they are: $CONFDIR, /var/lib/benchd, /var/log/benchd and the user benchd"
