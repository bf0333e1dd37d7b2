-- The functions of the schema, as their bodies were written.
SELECT proname AS name, prosrc AS body FROM pg_proc WHERE pronamespace = to_regnamespace('{schema}')
