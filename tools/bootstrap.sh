#!/bin/bash
# Makes a bare Debian 12 ready for `make demo` and `make test`: Debian packages, virtual environment,
# Python packages, generated protobuf code, native code. Steps whose inputs did not change are left out,
# so that a second run takes no noticeable time. Nothing outside this directory changes but Debian packages.
# Arguments are further ones that are wanted.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON_MINIMUM=3.11
DEBIAN_PACKAGES=(
	python3 python3-venv python3-dev gcc libc6-dev linux-libc-dev make binutils dpkg-dev clang-format
	redis-server nginx-light nodejs postgresql openssh-server openssh-client iproute2 util-linux procps criu curl chromium
	"$@"
)
VENV=.venv
STAMP=$VENV/.installed-from

say() { printf '==> %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }


missing_packages() {
	local installed package
	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${DEBIAN_PACKAGES[@]}" 2>/dev/null || true)
	for package in "${DEBIAN_PACKAGES[@]}"; do
		grep -qx "installed $package" <<<"$installed" || echo "$package"
	done
}

# Debian starts a service as soon as it is installed. Ours are wanted as programs only, so starting is
# forbidden for the time of the installation; a policy that the machine already has is put back.
POLICY=/usr/sbin/policy-rc.d
OUR_POLICY='# No service starts while migrate installs packages.'
restore_policy() {
	rm -f "$POLICY"
	[[ ! -e $POLICY.before-migrate && ! -L $POLICY.before-migrate ]] || mv "$POLICY.before-migrate" "$POLICY"
}

forbid_services() {
	# One left behind by a run that was killed is ours, not the machine's.
	! grep -qsxF "$OUR_POLICY" "$POLICY" || restore_policy
	[[ ! -e $POLICY ]] || mv "$POLICY" "$POLICY.before-migrate"
	trap restore_policy EXIT
	trap 'exit 130' INT TERM HUP
	printf '#!/bin/sh\n%s\nexit 101\n' "$OUR_POLICY" >"$POLICY"
	chmod 755 "$POLICY"
}

# keep_services_off PACKAGE...: what we brought does not start at the next boot either.
keep_services_off() {
	local package
	command -v systemctl >/dev/null || return 0
	for package in "$@"; do
		case $package in
		redis-server) systemctl --quiet disable redis-server.service || true ;;
		nginx-light) systemctl --quiet disable nginx.service || true ;;
		postgresql) systemctl --quiet disable postgresql.service || true ;;
		openssh-server) systemctl --quiet disable ssh.service || true ;;
		esac
	done
}

install_packages() {
	local missing
	mapfile -t missing < <(missing_packages)
	((${#missing[@]})) || return 0
	[[ $EUID == 0 ]] || die "missing Debian packages: ${missing[*]}: run as root, or install them"
	command -v apt-get >/dev/null || die "missing packages: ${missing[*]}: no apt-get here, install them yourself"
	say "installing Debian packages: ${missing[*]}"
	(
		forbid_services
		export DEBIAN_FRONTEND=noninteractive
		apt-get -qq -o Acquire::Retries=3 update
		apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "${missing[@]}" >/dev/null
		keep_services_off "${missing[@]}"
	)
}

# The first interpreter on PATH that is new enough and can make virtual environments with pip.
find_python() {
	local candidate
	for candidate in python3 python3.11 python3.12 python3.13 /usr/bin/python3; do
		candidate=$(command -v "$candidate") || continue
		"$candidate" - "$PYTHON_MINIMUM" <<-'PY' 2>/dev/null && { echo "$candidate"; return; }
			import sys, sysconfig, pathlib, ensurepip
			minimum = tuple(map(int, sys.argv[1].split(".")))
			headers = pathlib.Path(sysconfig.get_path("include"), "Python.h")
			sys.exit(not (sys.version_info >= minimum and headers.exists()))
		PY
	done
	die "no Python $PYTHON_MINIMUM or newer with its headers on PATH"
}

make_environment() {
	local python wanted
	# The directory's own name is part of the environment's scripts.
	wanted="$(sha256sum pyproject.toml constraints.txt) $PWD"
	if [[ -e $STAMP && $(<"$STAMP") == "$wanted" && -x $VENV/bin/migrate ]] && "$VENV/bin/python" -c '' 2>/dev/null; then
		return
	fi
	if ! { "$VENV/bin/python" -c '' && grep -qF "$PWD/$VENV" "$VENV/bin/pip"; } 2>/dev/null; then
		python=$(find_python)
		say "making $VENV with $("$python" -V)"
		"$python" -m venv --clear "$VENV"
	fi
	say "installing Python packages"
	"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		-c constraints.txt setuptools wheel $(python_packages)
	PYTHONWARNINGS=ignore "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		--no-deps --no-build-isolation -e .
	printf '%s\n' "$wanted" >"$STAMP"
}

# What pyproject.toml asks for, run time and development.
python_packages() {
	"$VENV/bin/python" - <<-'PY'
		import tomllib
		project = tomllib.load(open("pyproject.toml", "rb"))["project"]
		print(*project["dependencies"], *project["optional-dependencies"]["dev"])
	PY
}

install_packages
make_environment
# Both leave out what is up to date.
"$VENV/bin/python" core/images/generate.py
"$VENV/bin/python" core/native/build.py
