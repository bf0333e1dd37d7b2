-- Which migrations have been applied.
CREATE TABLE IF NOT EXISTS {schema}.schema_migration (
    kind       text NOT NULL,
    version    integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, version)
)
