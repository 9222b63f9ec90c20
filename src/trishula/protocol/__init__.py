"""The mesh without the machine: no socket, clock, random number, file or asyncio.

Time and randomness come in as arguments, work goes out as effects. The imports flow one way, from top to bottom:

    errors, names, clock, limits, backoff
    json_faults   why some bytes are not a JSON object
    message       the payload that an agent wrote, fixed for ever
    envelope      one payload for one recipient, and the receipt that ends it
    signing       the MACs of both, by pair of nodes
    frames        what goes over a WebSocket between nodes
    agent_frames  the same between a node and its agents
    link          one connection between two nodes: greeting, liveness
    directory     which agent lives where
    records       what the store is asked to commit
    trust         what a node signs, and what it believes
    ledger        the rules by which the store commits
    effects       what the engine wants done
    delivery      what is pending for one destination
    routes        who is linked to whom, and which way mail goes
    desk          what the roles share, and the pump that offers mail on links
    origin        a role: what our agents send, to its end
    custody       a role: what others hold of it, and when it is our duty again
    post          a role: what goes by rsync, and when
    relay         a role: what we hold for others
    recipient     a role: what our agents get, and the answers
    retention     what may be forgotten
    engine        all of it: events in, effects and the next deadline out
"""
