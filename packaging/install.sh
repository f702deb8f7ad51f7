#!/bin/sh
# Installs Reveille from the unpacked archive, again as often as you like, and removes it.
set -eu

usage() {
    cat <<'EOF'
Usage: ./install.sh [--user | --prefix DIR] [--uninstall]

  (no option)    install for everyone, in /usr/local; needs root
  --user         install for yourself, in ~/.local, without the systemd units
  --prefix DIR   install in another folder; PREFIX=DIR does the same
  --uninstall    remove what was installed there; configs and data stay
EOF
}

fail() {
    echo "install.sh: $1" >&2
    exit "${2:-1}"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=${PREFIX:-}
user=no
uninstall=no
while [ $# -gt 0 ]; do
    case $1 in
    --user) user=yes ;;
    --prefix) [ $# -ge 2 ] || fail "--prefix needs a folder" 2; prefix=$2; shift ;;
    --prefix=*) prefix=${1#--prefix=} ;;
    --uninstall) uninstall=yes ;;
    -h | --help) usage; exit ;;
    *) usage >&2; fail "not an option: $1" 2 ;;
    esac
    shift
done
if [ -z "$prefix" ]; then
    case $here in
    # The copy that an earlier run has installed.
    */lib/reveille) prefix=${here%/lib/reveille} ;;
    *)
        prefix=/usr/local
        if [ "$user" = yes ]; then
            [ -n "${HOME:-}" ] || fail "HOME isn't set, so --user has no folder: set it, or use --prefix DIR" 2
            prefix=$HOME/.local
        fi
        ;;
    esac
fi
case $prefix in
/*) ;;
*) prefix=$PWD/$prefix ;;
esac
# What is installed, one path below the prefix a line.
list=$prefix/lib/reveille/installed

# Removes the files of a list, and the folders that are empty then.
remove() {
    while IFS= read -r file; do
        rm -f "$prefix/$file"
        (cd "$prefix" && rmdir -p "$(dirname "$file")" 2>/dev/null) || true
    done
}

# Stops the services whose units are installed here: those of a package, or of another folder, go on.
stop_services() {
    for unit in reveille reveille-agent reveille-nats; do
        file=$(systemctl show --property FragmentPath --value "$unit.service" 2>/dev/null) || continue
        case $(readlink -f "${file:-/}") in
        "$(readlink -f "$prefix")"/*) systemctl disable --now "$unit.service" 2>/dev/null || true ;;
        esac
    done
}

reload() {
    if [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]; then systemctl daemon-reload || true; fi
}

if [ "$uninstall" = yes ]; then
    [ -f "$list" ] || fail "nothing is installed in $prefix"
    [ -w "$list" ] || fail "$prefix can't be changed: run this as root" 2
    if [ -d /run/systemd/system ] && grep -q '\.service$' "$list"; then stop_services; fi
    installed=$(cat "$list")
    printf '%s\n' "$installed" | remove
    reload
    echo "Reveille is no longer in $prefix. Configs and data stay where they are."
    exit
fi

[ -f "$here/bin/reveille" ] || fail "run this from the folder of the unpacked archive"
# The units name what they run by its path. --user installs none.
if [ "$user" = no ] && [ "$(printf '%s' "$prefix" | LC_ALL=C tr -d 'A-Za-z0-9/._+@,:=\200-\377-' | wc -c)" -gt 0 ]; then
    fail "$prefix has characters that a systemd unit would read in its own way: use another folder" 2
fi
if ! mkdir -p "$prefix/lib/reveille" 2>/dev/null || ! [ -w "$prefix/lib/reveille" ]; then
    fail "$prefix can't be written: run this as root, or with --user to install for yourself" 2
fi

# A run that fails takes back what it has put there. Over an earlier version it leaves no half of a file, and can be repeated.
placed=
undo() {
    status=$?
    [ "$status" != 0 ] || return 0
    trap - EXIT
    rm -f "$list.new"
    printf '%s\n' "$files" lib/reveille/install.sh | while IFS= read -r file; do rm -f "$prefix/$file.new"; done
    if [ -f "$list" ]; then
        echo "install.sh: $prefix may have parts of two versions now: mend that, and run this again" >&2
    else
        printf '%s\n' "${placed}lib/reveille/installed" | remove
        echo "install.sh: nothing was installed in $prefix" >&2
    fi
    exit "$status"
}
files=
trap undo EXIT
trap 'exit 130' INT TERM HUP

cd "$here"
files=$(find bin lib share -type f | sort)
if [ "$user" = yes ]; then files=$(printf '%s\n' "$files" | grep -v '\.service$'); fi
{ printf '%s\n' "$files"; echo lib/reveille/install.sh; echo lib/reveille/installed; } > "$list.new"

# Each file is complete before it gets its name, and a program that runs is replaced without being disturbed.
put() {
    mkdir -p "$prefix/$(dirname "$2")"
    case $1 in
    *.service) sed "s|/usr/local/|$prefix/|g" "$1" > "$prefix/$2.new" ;;
    *) cp "$1" "$prefix/$2.new" ;;
    esac
    if [ -x "$1" ]; then chmod 755 "$prefix/$2.new"; else chmod 644 "$prefix/$2.new"; fi
    mv -f "$prefix/$2.new" "$prefix/$2"
    placed="$placed$2
"
}
while IFS= read -r file; do put "$file" "$file"; done <<EOF
$files
EOF
put install.sh lib/reveille/install.sh
# What an earlier version had and this one hasn't.
if [ -f "$list" ]; then grep -vxFf "$list.new" "$list" | remove; fi
mv -f "$list.new" "$list"
trap - EXIT INT TERM HUP
reload

echo "$("$prefix/bin/reveille" --version) is installed in $prefix."
echo
case :$PATH: in
*:"$prefix/bin":*) echo "  reveille init && reveille up    writes a config for this machine's backends, and runs everything" ;;
*) echo "  PATH lacks its folder. Add this to your shell's profile: export PATH=\"$prefix/bin:\$PATH\"" ;;
esac
if [ "$user" = no ]; then
    case $prefix in
    /usr/local | /usr)
        echo "  systemctl enable --now reveille    runs a hub from now on, and starts it with the machine"
        echo "  reveille join TOKEN --service      makes this machine an agent of another one's hub, in the same way"
        ;;
    *) echo "  systemctl link $prefix/lib/systemd/system/reveille.service    makes its units known to systemd" ;;
    esac
fi
echo "  $prefix/lib/reveille/install.sh --uninstall    removes it"
