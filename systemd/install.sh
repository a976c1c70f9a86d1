#!/bin/sh
# `make install`: install a venv for benchd alone in PREFIX, the units, the user, the inbox and the settings. Existing
# settings stay.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
units=$root/systemd
target=$DESTDIR$PREFIX

complain() { echo "make install: $*" >&2; exit 1; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    complain "benchd needs Python 3.11 or newer; $PYTHON is $("$PYTHON" --version). Name another: SYSTEM_PYTHON=..."
# The service's user must be able to enter every folder above the interpreter.
folder=$(dirname "$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')")
while [ -z "${FOR_USER:-}" ] && [ "$folder" != / ]; do
    case $(stat -c %A "$folder") in
        *x | *t) ;;
        *) complain "$PYTHON is below $folder, which the user benchd can't enter; use the system's: SYSTEM_PYTHON=/usr/bin/python3" ;;
    esac
    folder=$(dirname "$folder")
done

# Never replace a folder that this script did not make: with PREFIX=/usr/local that would be a disaster.
if [ -e "$target" ] && [ ! -e "$target/share/benchd/installed" ]; then
    complain "make install did not create $target; set PREFIX to a folder for benchd alone, such as /opt/benchd"
fi
mkdir -p "$(dirname "$target")" || complain "can't write to $target; run it as root, or set DESTDIR"
# Each installation makes a new venv beside the old one, so that a failed upgrade leaves the old one.
rm -rf "$target.new"
"$PYTHON" -m venv --without-pip "$target.new"
# shellcheck disable=SC2086 - PIP_INSTALL_ARGS may have several words
"$PIP" --python "$target.new/bin/python" install --quiet --disable-pip-version-check --no-warn-script-location $PIP_INSTALL_ARGS "$root"
for file in "$target.new/bin/benchd" "$target.new/pyvenv.cfg"; do
    sed -i "s#$target.new#$PREFIX#g" "$file"
done
mkdir -p "$target.new/share/benchd"
: > "$target.new/share/benchd/installed"
rm -rf "$target.old"
[ ! -e "$target" ] || mv "$target" "$target.old"
mv "$target.new" "$target"
rm -rf "$target.old"

fill() { sed -e "s#@PREFIX@#$PREFIX#g" -e "s#@CONFDIR@#$CONFDIR#g" "$1" > "$2" && chmod 644 "$2"; }
write_settings() { # with the inbox $1; existing settings stay
    install -d "$DESTDIR$CONFDIR" "$target/share/benchd"
    sed "s#^path = \"inbox\"#path = \"$1\"#" "$root/config.toml" > "$target/share/benchd/config.toml"
    if [ -e "$DESTDIR$CONFDIR/config.toml" ]; then
        echo "$CONFDIR/config.toml stays as it is; the new defaults are in $PREFIX/share/benchd/config.toml"
    else
        install -m 644 "$target/share/benchd/config.toml" "$DESTDIR$CONFDIR/config.toml"
    fi
}

if [ -n "${FOR_USER:-}" ]; then
    install -d "$DESTDIR$USERUNITDIR"
    fill "$units/user/benchd.service" "$DESTDIR$USERUNITDIR/benchd.service"
    write_settings "$HOME/benchd-inbox"
    mkdir -p "$DESTDIR$HOME/benchd-inbox"
    echo "installed; start it with: systemctl --user daemon-reload && systemctl --user enable --now benchd"
    echo "then drop audits into $HOME/benchd-inbox"
    exit
fi

install -d "$DESTDIR$UNITDIR" "$DESTDIR$USERUNITDIR" "$DESTDIR$SYSUSERSDIR" "$DESTDIR$TMPFILESDIR"
fill "$units/benchd.service" "$DESTDIR$UNITDIR/benchd.service"
fill "$units/benchd@.service" "$DESTDIR$UNITDIR/benchd@.service"
fill "$units/user/benchd.service" "$DESTDIR$USERUNITDIR/benchd.service"
install -m 644 "$units/benchd.sysusers" "$DESTDIR$SYSUSERSDIR/benchd.conf"
install -m 644 "$units/benchd.tmpfiles" "$DESTDIR$TMPFILESDIR/benchd.conf"
write_settings /var/lib/benchd/inbox
install -m 644 "$units/README.md" "$units/benchd.logrotate" "$units/watch-folder.conf.example" "$target/share/benchd/"

if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
    systemd-sysusers "$SYSUSERSDIR/benchd.conf"
    systemd-tmpfiles --create "$TMPFILESDIR/benchd.conf"
    systemctl daemon-reload
    systemctl try-restart benchd.service
    echo "installed $("$PREFIX/bin/benchd" --version); start it with: systemctl enable --now benchd"
else
    echo "installed below ${DESTDIR:-/}; on the running system:"
    echo "  systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl enable --now benchd"
fi
