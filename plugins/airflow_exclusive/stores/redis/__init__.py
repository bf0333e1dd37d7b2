"""The gate: one key a job, `lock:job:{<job_name>}`, whose value is the owner."""
