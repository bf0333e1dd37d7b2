from airflow_exclusive.cli import main

# Not by `__name__`: an Airflow that scans this file as a plugin (where `.airflowignore` was left behind) gives it the
# same one, and would end with our usage message.
if __package__ == "airflow_exclusive.cli":
    main()
