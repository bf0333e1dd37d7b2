"""`make bench-celery`: what Celery's settings do to recovery and to duplicates when a worker is lost or stopped."""
