-- The store of one node. Times are ms since 1970, UTC. Strings of the protocol are kept as they are.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What local agents sent: one row a message …
CREATE TABLE messages (
    number    INTEGER PRIMARY KEY,
    sender    TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    digest    TEXT    NOT NULL,
    payload   BLOB    NOT NULL,
    stored_at INTEGER NOT NULL,
    projected INTEGER NOT NULL,           -- whether outbox/{id}.json is on the disk
    UNIQUE (sender, id)
) STRICT;
CREATE INDEX messages_names ON messages (sender, id COLLATE NOCASE);
CREATE INDEX messages_unprojected ON messages (number) WHERE projected = 0;

-- … and one an envelope, in the order of their commit.
CREATE TABLE outgoing (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    sender     TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    recipient  TEXT    NOT NULL,
    dest       TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    urgent     INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    stored_at  INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    route      TEXT    NOT NULL,
    settled_at INTEGER,
    latency_ms REAL,
    UNIQUE (sender, id, recipient)
) STRICT;
CREATE INDEX outgoing_pending ON outgoing (dest, urgent, seq) WHERE state = 'stored';

-- What local agents got, and what was refused: the ledger, and the inbox within it.
CREATE TABLE ledger (
    cursor     INTEGER PRIMARY KEY AUTOINCREMENT,
    sender     TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    recipient  TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    origin     TEXT    NOT NULL,
    expires_at INTEGER NOT NULL,
    outcome    TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    route      TEXT    NOT NULL,
    payload    BLOB,                      -- NULL for what was refused
    projected  INTEGER NOT NULL,          -- whether inbox/{id}.json is, or once was, on the disk
    UNIQUE (sender, id, recipient, digest)
) STRICT;
CREATE INDEX ledger_names ON ledger (recipient, id COLLATE NOCASE);
CREATE INDEX ledger_unprojected ON ledger (cursor) WHERE projected = 0;
CREATE INDEX ledger_unread ON ledger (recipient, cursor) WHERE outcome = 'delivered';
