-- Deliberately not idempotent: run twice for a day, it counts that day twice.
UPDATE flights_by_day_unguarded SET flights = flights + %(flights)s WHERE day = %(day)s
