# Dump a database to a file that is whole or not there: written aside, then renamed.
#
# BACKUP_SOURCE   address of the database
# BACKUP_FOLDER   where the file goes; default backups/ in Airflow's folder
#
# The lease says which tick this is and who writes, so that even a second writer would not touch this one's file.
set -eu

folder="${BACKUP_FOLDER:-${AIRFLOW_HOME:-.}/backups}"
tick="$(printf %s "$EXCLUSIVE_RUN_KEY" | tr -c 'A-Za-z0-9' '-')"
partial="$folder/.$tick.$EXCLUSIVE_TOKEN.partial"

mkdir -p "$folder"
trap 'rm -f "$partial"' EXIT
pg_dump --dbname="$BACKUP_SOURCE" --format=custom --file="$partial"
mv "$partial" "$folder/$tick.dump"
echo "$folder/$tick.dump"
