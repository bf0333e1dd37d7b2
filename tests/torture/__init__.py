"""Nodes work through ticks, while processes, connections and servers are struck at random; then the books are read.

    python -m tests.torture --minutes 5 --seed 7

`node` does the work, `world` has the servers and nodes, `nemesis` strikes, `history` is what was seen to happen,
`verdict` compares that with what the stores say: a tick done twice or never, two runners at a time, an effect too many
or too few, a token that fell, something left behind.
"""
