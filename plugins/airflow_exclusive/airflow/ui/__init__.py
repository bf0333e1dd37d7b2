"""The page "Exclusive jobs" in Airflow's UI: one report and one script, behind two web frameworks.

`reports` says what a visitor may see and do; `fastapi_app` (3.x) and `flask_view` (2.11) hand it on as JSON, at the
same paths; `static/exclusive_jobs.js` shows it.
"""
