#!/bin/sh
# find-python.sh GIVEN VERSION...
# Prints the interpreter to make an environment with: GIVEN, unless it is empty, else the first VERSION (such as 3.12) found on
# PATH or among pyenv's. Each is tried, for pyenv's shims and Debian's pythons without venv are there, but of no use.
set -eu

given=$1
shift

# python VERSION -> its path, if it is that version and complete
try() {
	"$1" - "$2" 2>/dev/null <<-'END'
		import ctypes, ensurepip, sqlite3, ssl, sys, venv
		if "{}.{}".format(*sys.version_info) != sys.argv[1] or "t" in sys.abiflags:
		    sys.exit(1)
		print(sys.executable)
	END
}

# There is no embedded Valkey for Python 3.10: it comes last, unless a server is at hand.
if command -v valkey-server >/dev/null || command -v redis-server >/dev/null; then
	versions=$*
else
	versions=$(printf '%s\n' "$@" | sed '/^3\.10$/d'; printf '%s\n' "$@" | sed -n '/^3\.10$/p')
fi

pyenv=${PYENV_ROOT:-$(pyenv root 2>/dev/null || echo "$HOME/.pyenv")}
for version in $versions; do
	if [ -n "$given" ]; then
		! try "$given" "$version" || exit 0
		continue
	fi
	for python in "python$version" python3 "$pyenv/versions/$version".*/bin/python3; do
		! try "$python" "$version" || exit 0
	done
done

case $given in
'') echo >&2 "No Python of these versions, with venv, is on PATH or among pyenv's: $*. Name one: make PYTHON=/path/to/python3 (PYTHON_2_11= for Airflow 2.11)" ;;
*) echo >&2 "$given is none of these Pythons, or lacks venv: $*" ;;
esac
exit 1
