-- What a decision promises and how sure that is, what else it might have been, and what came of it.
-- Rows of earlier versions hold NULL in the new columns.

ALTER TABLE decisions ADD COLUMN hours DOUBLE;                  -- over which the gain is promised
ALTER TABLE decisions ADD COLUMN gain_p10 DOUBLE;               -- USD over those hours, net of the cost
ALTER TABLE decisions ADD COLUMN gain_p90 DOUBLE;               -- four times in five it lies between the two
ALTER TABLE decisions ADD COLUMN roi DOUBLE;                    -- gain over cost; NULL where the change costs nothing
ALTER TABLE decisions ADD COLUMN binding VARCHAR;               -- JSON array of resources that are used up
ALTER TABLE decisions ADD COLUMN shadow_prices VARCHAR;         -- JSON object: resource -> USD a month of a unit more
ALTER TABLE decisions ADD COLUMN runner_up VARCHAR;             -- the next best plan, in a sentence
ALTER TABLE decisions ADD COLUMN runner_up_usd_per_hour DOUBLE; -- its gain
ALTER TABLE decisions ADD COLUMN preset VARCHAR;                -- the planner's settings by name

ALTER TABLE decision_allocations ADD COLUMN yield_p10 DOUBLE;   -- of yield_usd
ALTER TABLE decision_allocations ADD COLUMN yield_p90 DOUBLE;
ALTER TABLE decision_allocations ADD COLUMN switching_cost_usd DOUBLE;
ALTER TABLE decision_allocations ADD COLUMN curvature DOUBLE;   -- earnings = yield x share ** curvature
ALTER TABLE decision_allocations ADD COLUMN curvature_deviation DOUBLE;
ALTER TABLE decision_allocations ADD COLUMN changes_seen INTEGER; -- changes of the share it was learnt from
ALTER TABLE decision_allocations ADD COLUMN share_seen_least DOUBLE; -- beyond the shares seen it is extrapolated
ALTER TABLE decision_allocations ADD COLUMN share_seen_most DOUBLE;

CREATE TABLE outcomes (
    decision_id VARCHAR PRIMARY KEY,
    host VARCHAR NOT NULL,
    applied_at TIMESTAMP NOT NULL,
    measured_at TIMESTAMP NOT NULL,
    hours DOUBLE NOT NULL,                 -- measured: less than promised where the next change cut them short
    promised_usd DOUBLE,                   -- for those hours, net of the cost
    promised_p10 DOUBLE,
    promised_p90 DOUBLE,
    earned_usd DOUBLE,                     -- by all nodes of the host; NULL is unknown
    unchanged_usd DOUBLE,                  -- what the same hours would have earned at the old shares
    gained_usd DOUBLE,                     -- earned less unchanged
    wrong BOOLEAN,                         -- gained_usd < 0
    note VARCHAR NOT NULL                  -- what is unknown, or left out
);
