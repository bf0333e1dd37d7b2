from airflow_exclusive.cli import main

main()
