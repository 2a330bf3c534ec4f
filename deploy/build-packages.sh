#!/bin/bash
# Builds what is handed out, from a checkout that `make build` has built: a Debian package by dpkg-deb, an archive with
# install.sh for everything else, a wheel, and the manual page. Usage: deploy/build-packages.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-build/dist}")
python=$PWD/.venv/bin/python
version=$("$python" -m migrate.cli --version | cut -d' ' -f2)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

archive=$out/migrate-$version-linux-$(uname -m).tar.gz
"$python" -m migrate.cli bundle "$archive" >/dev/null
"$python" -m migrate.cli manual >"$out/migrate.8"
rm -rf build/lib build/bdist.*
tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$out" \
	--config-settings=--build-option="--python-tag=$tag --plat-name=linux_$(uname -m)" .

# The package is a virtual environment, too: of Debian's own interpreter, at a fixed place.
root=$work/root
home=/usr/lib/migrate
interpreter=python$(tar --occurrence=1 -xzOf "$archive" manifest | sed -n 's/^python=//p')
site=$root$home/lib/$interpreter/site-packages
umask 022
mkdir -p "$root$home/bin" "$site" "$root/usr/bin" "$root/etc/migrate/hooks" "$root/DEBIAN"
tar -xzf "$archive" -C "$site" --strip-components=1 --no-same-owner lib
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$root$home/pyvenv.cfg"
ln -s "/usr/bin/$interpreter" "$root$home/bin/python3"
printf '#!%s/bin/python3\nfrom migrate.cli import main\nmain()\n' "$home" >"$root$home/bin/migrate"
chmod 755 "$root$home/bin/migrate"
ln -s "..${home#/usr}/bin/migrate" "$root/usr/bin/migrate"

install -Dm644 deploy/migrate-serve.service "$root/usr/lib/systemd/system/migrate-serve.service"
install -Dm644 deploy/sysusers.conf "$root/usr/lib/sysusers.d/migrate.conf"
install -Dm644 deploy/tmpfiles.conf "$root/usr/lib/tmpfiles.d/migrate.conf"
install -Dm644 deploy/debian/inventory.toml "$root/etc/migrate/inventory.toml"
install -Dm644 "$out/migrate.8" "$root/usr/share/man/man8/migrate.8"
doc=$root/usr/share/doc/migrate
install -Dm644 -t "$doc/examples" deploy/inventory.toml deploy/prometheus.yml deploy/alerts.yml deploy/grafana.json
install -Dm644 -t "$doc" README.md ARCHITECTURE.md
install -Dm644 -t "$doc/docs" docs/*.md
install -Dm644 CHANGELOG.md "$doc/changelog"
install -Dm644 deploy/debian/copyright "$doc/copyright"
gzip -9n "$root/usr/share/man/man8/migrate.8" "$doc/changelog"

# What of Debian the compiled parts need, as dpkg-shlibdeps finds it.
mkdir -p "$work/debian"
printf 'Source: migrate\n\nPackage: migrate\nArchitecture: any\n' >"$work/debian/control"
mapfile -t compiled < <(find "$site" -name '*.so*' -type f)
needs=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info "${compiled[@]}" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
install -m755 deploy/debian/postinst deploy/debian/prerm "$root/DEBIAN/"
echo /etc/migrate/inventory.toml >"$root/DEBIAN/conffiles"
sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$(dpkg --print-architecture)/; s/@DEPENDS@/$interpreter, $needs/" \
	-e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f1)/" deploy/debian/control >"$root/DEBIAN/control"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group -Zzstd -z3 --build "$root" "$out" >/dev/null
ls -1 "$out"
