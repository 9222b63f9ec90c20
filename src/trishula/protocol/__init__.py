"""The mesh without the machine: no socket, clock, random number, file or asyncio.

Time and randomness come in as arguments, work goes out as effects. The imports flow one way, from top to bottom:

    errors, names, clock, limits, backoff
    message       the payload that an agent wrote, fixed for ever
    envelope      one payload for one recipient, and the receipt that ends it
    signing       the MACs of both, by pair of nodes
    frames        what goes over a WebSocket between nodes
    agent_frames  the same between a node and its agents
    link          one connection between two nodes: greeting, liveness
    directory     which agent lives where
    trust         what a node signs, and what it believes
    records       what the store is asked to commit
    ledger        the rules by which it does
    delivery      what is pending for one destination
    effects       what the engine wants done
    engine        all of it: events in, effects and the next deadline out
"""
