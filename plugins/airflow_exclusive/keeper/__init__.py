"""The keeper: a process of its own that renews one lease for one job process.

A thread can't do it: C code that holds the GIL stops it for seconds. `handle` is the job's side, `process` the
keeper's, `page` the few bytes of memory that they share, `watched_job` what the keeper knows of the job's processes.
"""
