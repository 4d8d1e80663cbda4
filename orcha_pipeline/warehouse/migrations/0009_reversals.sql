-- Changes that lost more than they might: they are set back, and not made again for a while.
-- Rows of earlier versions hold NULL in the new column.

ALTER TABLE decisions ADD COLUMN forced VARCHAR;   -- why it changes whatever that earns; '' where it need not

CREATE TABLE reversals (
    decision_id VARCHAR PRIMARY KEY,       -- the change that lost
    host VARCHAR NOT NULL,
    noticed_at TIMESTAMP NOT NULL,
    hours DOUBLE NOT NULL,                 -- that it had been in force
    lost_usd DOUBLE NOT NULL,              -- against the old shares in those hours
    bound_usd DOUBLE NOT NULL              -- that it might lose in them
);
