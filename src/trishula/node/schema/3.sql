-- Files as an interface: what has ended leaves the outbox before it is forgotten; receipts are files, for who wants them.

ALTER TABLE messages ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;    -- its envelopes are forgotten: it goes when its file has gone
UPDATE messages SET ended = 1 WHERE NOT EXISTS
    (SELECT 1 FROM outgoing o WHERE o.sender = messages.sender AND o.id = messages.id);
CREATE INDEX messages_ended ON messages (number) WHERE ended = 1;

ALTER TABLE outgoing ADD COLUMN receipt INTEGER NOT NULL DEFAULT 0;  -- whether its file in receipts/ is to be written
CREATE INDEX outgoing_receipt ON outgoing (seq) WHERE receipt = 1;

-- Agents that want receipts as files, as the configuration says.
CREATE TABLE receipts_for (agent TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
