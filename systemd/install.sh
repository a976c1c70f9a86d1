#!/bin/sh
# `make install`: a venv of its own under PREFIX, units, the account, the inbox. Settings that are there are kept.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
units=$root/systemd
target=$DESTDIR$PREFIX

complain() { echo "make install: $*" >&2; exit 1; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    complain "benchd needs Python 3.11 or newer; $PYTHON is $("$PYTHON" --version). Name another: SYSTEM_PYTHON=..."
# The service's user must reach the interpreter: every folder on the way to it must be open to all.
folder=$(dirname "$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')")
while [ -z "${FOR_USER:-}" ] && [ "$folder" != / ]; do
    case $(stat -c %A "$folder") in
        *x | *t) ;;
        *) complain "$PYTHON lives below $folder, which the user benchd can't enter; use the system's: SYSTEM_PYTHON=/usr/bin/python3" ;;
    esac
    folder=$(dirname "$folder")
done

# A folder that is not ours is not ours to replace: PREFIX=/usr/local would be a disaster.
if [ -e "$target" ] && [ ! -e "$target/share/benchd/installed" ]; then
    complain "$target is there and was not made by this; PREFIX names a folder for benchd alone, such as /opt/benchd"
fi
mkdir -p "$(dirname "$target")" || complain "can't write to $target; as root, or with DESTDIR="
# Made anew at every install, beside the old one, so that an upgrade that fails half-way leaves the old one.
rm -rf "$target.new"
"$PYTHON" -m venv --without-pip "$target.new"
# shellcheck disable=SC2086 - several words are meant
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
settle() { # the settings, with the inbox in its place; those that are there are kept
    install -d "$DESTDIR$CONFDIR" "$target/share/benchd"
    sed "s#^path = \"inbox\"#path = \"$1\"#" "$root/config.toml" > "$target/share/benchd/config.toml"
    if [ -e "$DESTDIR$CONFDIR/config.toml" ]; then
        echo "$CONFDIR/config.toml is kept; the new defaults are in $PREFIX/share/benchd/config.toml"
    else
        install -m 644 "$target/share/benchd/config.toml" "$DESTDIR$CONFDIR/config.toml"
    fi
}

if [ -n "${FOR_USER:-}" ]; then
    install -d "$DESTDIR$USERUNITDIR"
    fill "$units/user/benchd.service" "$DESTDIR$USERUNITDIR/benchd.service"
    settle "$HOME/benchd-inbox"
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
settle /var/lib/benchd/inbox
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
