"""The node: the boring shell around `trishula.protocol`. It moves bytes, keeps rows and files, and carries out effects.

config        node.toml and the credentials, checked       tls        contexts for both sides
store         SQLite, group commit                         queries    what is read from it, and marked in it
mailbox       files follow the store: written, moved       inboxes    files that agents have moved say `done`
files, written, bounces, adoption: what these need         listener   who gets in
dialer        peers that this side dials                   links      a WebSocket with a Link on it
sessions      agents that are attached                     questions, replies, watchlist: what they are told
status, trace: this node, and one message, for people      hub        the engine and whom its effects reach
daemon        all tasks, start to stop
"""
