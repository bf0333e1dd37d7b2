"""The two stores: `redis` is the gate, `postgres` is the truth. Nothing here knows Airflow."""
