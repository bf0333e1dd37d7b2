-- The flights of one day: a whole scan, as a roll-up's reading part is slow.
SELECT count(*) FROM flights WHERE make_date(year, month, day) = %(day)s
