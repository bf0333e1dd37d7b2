SELECT kind, version FROM {schema}.schema_migration
