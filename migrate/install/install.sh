#!/bin/sh
# Installs migrate from an archive that `migrate bundle` wrote: a private virtual environment PREFIX/ID, and a link in
# BIN. Needs no network. The same archive again changes nothing; one that fails half-way leaves what was there before.
#
#   sh install.sh [--prefix /opt/migrate] [--bin /usr/local/bin] [--check] ARCHIVE
#   sh install.sh … --manifest TEXT -         # the archive on standard input, as `migrate bootstrap` sends it
#
# Prints what it does. Exit code 3: refused before anything was touched, every reason named.
set -eu
umask 022
prefix=/opt/migrate bin=/usr/local/bin check='' manifest='' archive=''
while [ $# -gt 0 ]; do
	case $1 in
	--prefix) prefix=$2; shift ;;
	--bin) bin=$2; shift ;;
	--manifest) manifest=$2; shift ;;
	--check) check=yes ;;
	*) archive=$1 ;;
	esac
	shift
done
[ -n "$archive" ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
case $prefix$bin in *[!A-Za-z0-9/._+-]*) echo "install.sh: --prefix and --bin: letters, digits and /._+- only" >&2; exit 2 ;; esac
case $prefix,$bin in /*,/*) ;; *) echo "install.sh: --prefix and --bin: have to begin with /" >&2; exit 2 ;; esac

refused=''
refuse() { # SUBJECT REASON HINT
	printf 'refused: %s: %s\n  → %s\n' "$1" "$2" "$3" >&2
	refused=yes
}
fact() { printf '%s\n' "$manifest" | sed -n "s/^$1=//p"; }
above() { # the nearest directory above that is there
	place=$1
	while [ ! -d "$place" ]; do place=$(dirname "$place"); done
	printf '%s\n' "$place"
}
find_python() {
	for candidate in "python$version" "/usr/bin/python$version" python3; do
		if "$candidate" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$version" 2>/dev/null; then
			command -v "$candidate"
			return
		fi
	done
}

for tool in tar gzip sed df; do
	command -v "$tool" >/dev/null || refuse "program $tool" "is not there" "install it with the package manager there"
done
[ -z "$refused" ] || exit 3
[ -n "$manifest" ] || manifest=$(tar --occurrence=1 -xzOf "$archive" manifest)
id=$(fact id) version=$(fact python) home=$prefix/$(fact id)

[ "$(uname -m)" = "$(fact machine)" ] ||
	refuse "architecture $(uname -m)" "this is a program for $(fact machine)" "processes move between hosts of one architecture only"
python=$(find_python)
if [ -z "$python" ]; then
	refuse "python$version" "is not there" "on Debian 12: apt install python3 python3-venv"
elif ! "$python" -c 'import venv, ssl, sqlite3, ctypes, zlib' 2>/dev/null; then
	refuse "$python" "lacks a part of its standard library: $("$python" -c 'import venv, ssl, sqlite3, ctypes, zlib' 2>&1 | tail -n 1)" \
		"on Debian 12: apt install python3 python3-venv"
fi
for folder in "$prefix" "$bin"; do
	[ -w "$(above "$folder")" ] || refuse "$folder" "may not be written to" "log in as root, or use --sudo; --prefix and --bin choose others"
done
if [ -e "$bin/migrate" ] && [ ! -L "$bin/migrate" ]; then
	refuse "$bin/migrate" "is somebody else's: a file, not a link of ours" "move it away, or choose another place with --bin"
fi
linked=$(readlink "$bin/migrate" || true)
if [ -e "$home/.complete" ] && [ "$linked" = "$home/bin/migrate" ]; then
	[ -z "$refused" ] || exit 3
	echo "$home: is there already; nothing to do"
	exit 0
fi
free=$(df -Pk "$(above "$prefix")" | awk 'NR == 2 {print $4}')
if [ ! -e "$home/.complete" ] && [ "$free" -lt "$(fact kilobytes)" ]; then
	refuse "$prefix" "its disk is full: $((free / 1024)) MiB are free, $(($(fact kilobytes) / 1024)) are needed" "free some, or choose another place with --prefix"
fi
[ -z "$refused" ] || exit 3
if [ -n "$check" ]; then
	echo "$home: is to be installed"
	exit 0
fi

mkdir -p "$prefix" "$bin"
exec 9>"$prefix/.lock"
flock -n 9 || { echo "install.sh: $prefix: somebody else installs there just now" >&2; exit 1; }
if [ ! -e "$home/.complete" ]; then
	trap 'rm -rf "$home"' EXIT
	trap 'exit 1' HUP INT TERM PIPE
	rm -rf "$home"
	"$python" -m venv --without-pip "$home"
	echo "$home: a virtual environment of $("$python" -V)"
	tar -xz -f "$archive" -C "$home/lib/python$version/site-packages" --strip-components=1 --no-same-owner lib
	cat >"$home/bin/migrate" <<-END
		#!$home/bin/python3
		from migrate.cli import main
		main()
	END
	chmod 755 "$home/bin/migrate"
	# Whether it runs here. It also writes the byte code of what is used most, for users who may not.
	said=$("$home/bin/migrate" --version 2>&1 && "$home/bin/python3" -I -c 'import core, migrate.cli.serve' 2>&1) || {
		echo "install.sh: it does not run here: $(printf '%s\n' "$said" | tail -n 1)" >&2
		exit 1
	}
	: >"$home/.complete"
	trap - EXIT
	echo "$home: $(printf '%s\n' "$said" | head -n 1)"
fi
ln -s "$home/bin/migrate" "$bin/.migrate.$$"
mv -fT "$bin/.migrate.$$" "$bin/migrate"
echo "$bin/migrate: leads there"
# The one before stays: a migration may still run from it.
for old in "$prefix"/*/.complete; do
	old=${old%/.complete}
	case $linked in "$old"/*) continue ;; esac
	[ "$old" = "$home" ] || { rm -rf "$old"; echo "$old: removed"; }
done
