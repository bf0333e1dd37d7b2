"""`make demo`: two nodes want the same ticks while things are killed, stopped and flushed; each tick counts once.

`stage` starts the deployment and the second node, `faults` breaks things at checkpoints that the sample job passes,
`account` compares what came out with the source. `python -m deploy.demo --help` has the options.
"""
