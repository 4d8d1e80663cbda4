-- Who may let a decision be carried out, and whether changes are stopped altogether.
-- Rows of earlier versions hold NULL in the new columns: all of them were carried out without asking.

ALTER TABLE decisions ADD COLUMN mode VARCHAR;          -- advise | confirm | auto: the strictest of the nodes it moves
ALTER TABLE decisions ADD COLUMN expires_at TIMESTAMP;  -- confirm: until when it waits for approval

CREATE TABLE approvals (
    decision_id VARCHAR PRIMARY KEY,
    approved_at TIMESTAMP NOT NULL,
    approved_by VARCHAR NOT NULL
);

CREATE TABLE pauses (
    paused_at TIMESTAMP PRIMARY KEY,
    paused_by VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,               -- may be empty
    resumed_at TIMESTAMP,                  -- NULL: changes are paused
    resumed_by VARCHAR
);
