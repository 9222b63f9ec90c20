-- Routes: what is in custody here for others, what of ours is in custody elsewhere; what the sender is told in a file;
-- what was read.

ALTER TABLE outgoing ADD COLUMN custodian TEXT NOT NULL DEFAULT '';  -- the node that waits with it; '': it is our duty
ALTER TABLE outgoing ADD COLUMN notice INTEGER NOT NULL DEFAULT 0;   -- whether a file in bounced/ is to be written
DROP INDEX outgoing_pending;
CREATE INDEX outgoing_pending ON outgoing (dest, urgent, seq) WHERE state = 'stored' AND custodian = '';
CREATE INDEX outgoing_custody ON outgoing (custodian, dest) WHERE state = 'stored' AND custodian <> '';
CREATE INDEX outgoing_open ON outgoing (expires_at, sender, dest) WHERE state = 'stored';
CREATE INDEX outgoing_hopeful ON outgoing (dest, seq) WHERE state IN ('delivered', 'unconfirmed');
CREATE INDEX outgoing_notice ON outgoing (seq) WHERE notice = 1;
CREATE INDEX outgoing_ended ON outgoing (expires_at) WHERE state <> 'stored' AND notice = 0;

ALTER TABLE ledger ADD COLUMN file TEXT NOT NULL DEFAULT '';         -- its name there, once it was written
ALTER TABLE ledger ADD COLUMN read_at INTEGER;
-- Until now names were not noted, but chosen thus: whose file is not there has been moved by its agent.
UPDATE ledger SET file = id || '.json' WHERE projected = 1 AND payload IS NOT NULL AND recipient <> '.ping'
    AND NOT EXISTS (SELECT 1 FROM ledger AS former WHERE former.recipient = ledger.recipient
        AND former.id = ledger.id COLLATE NOCASE AND former.cursor < ledger.cursor AND former.payload IS NOT NULL);
-- `projected` from here on: 0 to be written, 1 in inbox/, 2 in archive/ or wherever its agent has put it.
CREATE INDEX ledger_files ON ledger (recipient, projected, file, sender, id) 
    WHERE outcome = 'delivered' AND projected > 0 AND file <> '';
CREATE INDEX ledger_handled ON ledger (cursor) WHERE outcome = 'read' AND projected = 1;
CREATE INDEX ledger_ended ON ledger (expires_at) WHERE outcome <> 'delivered' OR recipient = '.ping';

CREATE TABLE held (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    origin     TEXT    NOT NULL,
    dest       TEXT    NOT NULL,
    sender     TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    recipient  TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    urgent     INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    kid        TEXT    NOT NULL,
    mac        BLOB    NOT NULL,
    payload    BLOB    NOT NULL,
    at         INTEGER NOT NULL,
    UNIQUE (sender, id, recipient)
) STRICT;
CREATE INDEX held_pending ON held (dest, urgent, seq);
CREATE INDEX held_expiry ON held (expires_at);
