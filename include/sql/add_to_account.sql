INSERT INTO account (name, balance) VALUES (%(account)s, %(amount)s)
ON CONFLICT (name) DO UPDATE SET balance = account.balance + EXCLUDED.balance
