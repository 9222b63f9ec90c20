"""The node: the boring shell around `trishula.protocol`. It moves bytes, keeps rows and files, and carries out effects.

config        node.toml and the credentials, checked       tls        contexts for both sides
store         SQLite, group commit                         mailbox    inbox and outbox files
listener      who gets in                                  dialer     peers that this side dials
links         a WebSocket with a Link on it                sessions   agents that are attached
hub           the engine and whom its effects reach        daemon     all tasks, start to stop
"""
