-- Nodes that were restarted because they did not answer: written before the restart, ended by what came of it.

CREATE TABLE healings (
    healing_id VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    alert_id VARCHAR NOT NULL,
    mode VARCHAR NOT NULL,                 -- of the node, at that time
    away_since TIMESTAMP NOT NULL,
    restarts_before INTEGER NOT NULL,      -- of the node, in the 30 days before
    restarts_per_month INTEGER NOT NULL,   -- that it might have in them
    started_at TIMESTAMP NOT NULL,
    answers_by TIMESTAMP NOT NULL,         -- until then it may take to answer
    ended_at TIMESTAMP,
    status VARCHAR NOT NULL,               -- intended | healed | failed
    reason VARCHAR NOT NULL,               -- how it ended; '' before
    dagster_run_id VARCHAR NOT NULL
);
