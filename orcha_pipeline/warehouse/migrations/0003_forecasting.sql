-- What is forecast, how each forecast fared, and what follows: alerts, retrainings, the moves of a model's alias.

ALTER TABLE forecasts ADD COLUMN target VARCHAR DEFAULT 'yield_usd';
-- yield_usd: USD per hour at full share | net_native: what the node earns an hour in its own unit, at the share it has

CREATE TABLE forecast_errors (
    issued_at TIMESTAMP NOT NULL,
    node VARCHAR NOT NULL,
    target VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    hours INTEGER NOT NULL,                -- of the forecast's hours, how many are known by now; the sums are over them
    abs_error DOUBLE NOT NULL,             -- sum of |truth - p50|, in the target's unit
    abs_truth DOUBLE NOT NULL,             -- sum of |truth|
    naive_abs_error DOUBLE,                -- the same for the same hour of an earlier day; NULL where one is unknown
    inside_band INTEGER NOT NULL,          -- hours whose truth lies in p10..p90
    scored_at TIMESTAMP NOT NULL,
    PRIMARY KEY (issued_at, node, target)
);

CREATE TABLE alerts (
    alert_id VARCHAR PRIMARY KEY,
    raised_at TIMESTAMP NOT NULL,
    kind VARCHAR NOT NULL,
    severity VARCHAR NOT NULL,             -- info | warning | critical
    subject VARCHAR NOT NULL,              -- what it is about: a protocol, a node, a host
    message VARCHAR NOT NULL,
    evidence VARCHAR NOT NULL,             -- JSON object
    resolved_at TIMESTAMP                  -- NULL while it is open
);

CREATE TABLE retraining_requests (
    request_id VARCHAR PRIMARY KEY,
    protocol VARCHAR NOT NULL,
    requested_at TIMESTAMP NOT NULL,
    reason VARCHAR NOT NULL,
    taken_at TIMESTAMP,
    dagster_run_id VARCHAR                 -- the training that took it; NULL until then
);

CREATE TABLE model_aliases (               -- every move of an alias; rows are only ever added
    protocol VARCHAR NOT NULL,
    version VARCHAR NOT NULL,              -- the version it points to from then on
    alias VARCHAR NOT NULL,                -- champion | challenger
    moved_at TIMESTAMP NOT NULL,
    who VARCHAR NOT NULL,
    why VARCHAR NOT NULL
);
