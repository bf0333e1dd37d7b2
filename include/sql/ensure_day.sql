INSERT INTO flights_by_day (day, flights) VALUES (%(day)s, 0) ON CONFLICT (day) DO NOTHING
