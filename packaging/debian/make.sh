#!/bin/sh
# Makes Debian's package from the unpacked archive: the same files, where Debian expects them.
#
#   make.sh FILES ROOT PACKAGE      with VERSION, ARCHITECTURE, LIBC, COMPRESSION and SOURCE_DATE_EPOCH set
#
# ROOT is an empty folder. `cargo xtask dist` runs this.
set -eu
files=$1 root=$2 package=$3
here=$(dirname "$0")
docs=$root/usr/share/doc/reveille

mkdir -p "$root/DEBIAN" "$root/usr"
cp -R "$files/bin" "$files/lib" "$files/share" "$root/usr/"
mv "$root/usr/share/zsh/site-functions" "$root/usr/share/zsh/vendor-completions"
mv "$docs/CHANGELOG.md" "$docs/changelog"
gzip -9n "$docs/changelog" "$docs/LICENSES.crates" "$root"/usr/share/man/man1/*
# Debian has the text of the Apache licence itself, and `copyright` refers to it.
rm "$docs/LICENSE" "$docs/LICENSE.nats-server"
cp "$here/copyright" "$docs/"
sed -i 's|/usr/local/|/usr/|g' "$root"/usr/lib/systemd/*/*
# For the configs that the units read.
mkdir -p "$root/etc/reveille"

cp "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN/"
size=$(du --summarize --apparent-size --block-size=1024 "$root/usr" | cut -f 1)
sed -e "s|@VERSION@|$VERSION|" -e "s|@ARCHITECTURE@|$ARCHITECTURE|" -e "s|@LIBC@|$LIBC|" -e "s|@SIZE@|$size|" \
    "$here/control" > "$root/DEBIAN/control"
(cd "$root" && find usr -type f | LC_ALL=C sort | xargs md5sum > DEBIAN/md5sums)
chmod -R u=rwX,go=rX "$root"
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
dpkg-deb --root-owner-group "-Z$COMPRESSION" --threads-max=1 --build "$root" "$package" > /dev/null
