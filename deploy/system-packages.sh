#!/bin/sh
# What the tests need besides Python, from the distribution: Redis, PgBouncer, libfaketime and a second PostgreSQL, and the
# programs that are named. Installs what is missing when root runs it; for anybody else it says what to install.
set -eu

missing=""
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
for program; do
	command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo >&2 "some tests need programs that aren't there; install them, or those are left out: apt-get install$missing"
	exit 0
fi

# The tests start servers of their own: those of the packages must not come up by themselves.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# shellcheck disable=SC2086 # a list of words
apt-get install --quiet=2 --yes --no-install-recommends $missing
