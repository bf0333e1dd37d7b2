-- Note that a migration has been applied, in its own transaction.
INSERT INTO {schema}.schema_migration (kind, version) VALUES (%(kind)s, %(version)s)
