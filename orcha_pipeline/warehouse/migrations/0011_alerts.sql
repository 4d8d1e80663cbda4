-- The life of an alert, and the messages about it, each until its channel has taken it.
-- Rows of earlier versions hold NULL in the new columns.

ALTER TABLE alerts ADD COLUMN scope VARCHAR;                -- node | host | token | protocol | orcha
ALTER TABLE alerts ADD COLUMN host VARCHAR;
ALTER TABLE alerts ADD COLUMN group_id VARCHAR;             -- the alert that stands for it; NULL: it stands for itself
ALTER TABLE alerts ADD COLUMN last_seen_at TIMESTAMP;       -- when its cause was last told; NULL: whoever raised it ends it
ALTER TABLE alerts ADD COLUMN acknowledged_at TIMESTAMP;
ALTER TABLE alerts ADD COLUMN acknowledged_by VARCHAR;
ALTER TABLE alerts ADD COLUMN escalated_at TIMESTAMP;
ALTER TABLE alerts ADD COLUMN announced_at TIMESTAMP;       -- when messages about it were last made; NULL: none yet
ALTER TABLE alerts ADD COLUMN announced_severity VARCHAR;   -- what it had then
ALTER TABLE alerts ADD COLUMN end_announced_at TIMESTAMP;
ALTER TABLE alerts ADD COLUMN resolved_why VARCHAR;

CREATE TABLE alert_messages (
    message_id VARCHAR NOT NULL,
    alert_id VARCHAR NOT NULL,
    channel VARCHAR NOT NULL,
    occasion VARCHAR NOT NULL,             -- raised | worse | escalated | resolved
    severity VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    body VARCHAR NOT NULL,
    queued_at TIMESTAMP NOT NULL,
    due_at TIMESTAMP NOT NULL,             -- later after each attempt that failed
    in_digest BOOLEAN NOT NULL,            -- it goes out with others, in one message
    attempts INTEGER NOT NULL,
    last_error VARCHAR NOT NULL,           -- in our own words; '' before the first failure
    sent_at TIMESTAMP,
    delivery_id VARCHAR,                   -- what was sent in one message has the same
    given_up_at TIMESTAMP
);
