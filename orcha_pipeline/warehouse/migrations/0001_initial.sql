-- Times are UTC without zone. Amounts of money and tokens are DECIMAL in the unit beside them. NULL is unknown.

CREATE TABLE nodes (
    node VARCHAR PRIMARY KEY,
    protocol VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    simulated BOOLEAN NOT NULL,
    first_seen_at TIMESTAMP NOT NULL
);

CREATE TABLE earnings (
    node VARCHAR NOT NULL,
    slot TIMESTAMP NOT NULL,               -- quarter of an hour of the reading: a slot read again is replaced
    observed_at TIMESTAMP NOT NULL,
    stream VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,                 -- counter | bucket
    started_at TIMESTAMP,                  -- counter: when it was zero; bucket: its start
    ended_at TIMESTAMP,                    -- bucket: its end
    unit VARCHAR NOT NULL,
    gross DECIMAL(38, 18),
    held DECIMAL(38, 18),
    net DECIMAL(38, 18),
    doubtful DECIMAL(38, 18),
    provenance VARCHAR NOT NULL,
    source VARCHAR NOT NULL
);

CREATE TABLE resource_usage (
    node VARCHAR NOT NULL,                 -- a node, or host:NAME for the machine itself
    slot TIMESTAMP NOT NULL,
    observed_at TIMESTAMP NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE,
    provenance VARCHAR NOT NULL,
    source VARCHAR NOT NULL
);

CREATE TABLE node_health (
    node VARCHAR NOT NULL,
    slot TIMESTAMP NOT NULL,
    observed_at TIMESTAMP NOT NULL,
    state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    error_kind VARCHAR NOT NULL,
    latency_seconds DOUBLE,
    version VARCHAR,
    scores VARCHAR NOT NULL                -- JSON object
);

CREATE TABLE allocations_observed (
    node VARCHAR NOT NULL,
    slot TIMESTAMP NOT NULL,
    observed_at TIMESTAMP NOT NULL,
    lever VARCHAR NOT NULL,
    value DOUBLE,
    unit VARCHAR NOT NULL,
    share DOUBLE,
    provenance VARCHAR NOT NULL,
    source VARCHAR NOT NULL
);

CREATE TABLE prices (
    token VARCHAR NOT NULL,
    slot TIMESTAMP NOT NULL,
    observed_at TIMESTAMP NOT NULL,
    usd DECIMAL(38, 18),
    priced_at TIMESTAMP,
    provenance VARCHAR NOT NULL,
    source VARCHAR NOT NULL
);

CREATE TABLE earnings_hourly (
    node VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP NOT NULL,           -- more than an hour later where nothing finer is honestly known
    unit VARCHAR NOT NULL,
    gross DECIMAL(38, 18),
    held DECIMAL(38, 18),
    net DECIMAL(38, 18),
    doubtful DECIMAL(38, 18),
    usd_price DECIMAL(38, 18),             -- USD a native unit, of that hour
    gross_usd DOUBLE,
    held_usd DOUBLE,
    net_usd DOUBLE,
    doubtful_usd DOUBLE,
    provenance VARCHAR NOT NULL
);

CREATE TABLE features_hourly (
    node VARCHAR NOT NULL,
    hour TIMESTAMP NOT NULL,
    share DOUBLE,
    net_native DOUBLE,
    net_usd DOUBLE,
    yield_usd DOUBLE,                      -- USD per hour at full share: net_usd / response(share)
    yield_native DOUBLE,
    usd_price DOUBLE,
    healthy_fraction DOUBLE,
    PRIMARY KEY (node, hour)
);

CREATE TABLE models (
    protocol VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    trained_at TIMESTAMP NOT NULL,
    mlflow_run_id VARCHAR NOT NULL,
    dagster_run_id VARCHAR NOT NULL,
    data_start TIMESTAMP NOT NULL,
    data_end TIMESTAMP NOT NULL,
    data_hash VARCHAR NOT NULL,
    metrics VARCHAR NOT NULL,              -- JSON object
    path VARCHAR NOT NULL,                 -- folder of the exported model, relative to the data folder
    champion BOOLEAN NOT NULL,
    PRIMARY KEY (protocol, version)
);

CREATE TABLE forecasts (
    issued_at TIMESTAMP NOT NULL,
    node VARCHAR NOT NULL,
    hour TIMESTAMP NOT NULL,
    p10 DOUBLE NOT NULL,
    p50 DOUBLE NOT NULL,
    p90 DOUBLE NOT NULL,
    model VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    note VARCHAR NOT NULL
);

CREATE TABLE decisions (
    decision_id VARCHAR PRIMARY KEY,
    host VARCHAR NOT NULL,
    decided_at TIMESTAMP NOT NULL,
    verdict VARCHAR NOT NULL,              -- reallocate | hold
    gain_usd_per_hour DOUBLE,
    gain_percent DOUBLE,
    switching_cost_usd DOUBLE,
    confidence DOUBLE,
    gates VARCHAR NOT NULL,                -- JSON array of {name, value, threshold, passed, explanation}
    reason VARCHAR NOT NULL,
    dagster_run_id VARCHAR NOT NULL
);

CREATE TABLE decision_allocations (
    decision_id VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    yield_usd DOUBLE,                      -- mean p50 over the horizon, USD per hour at full share
    share_now DOUBLE,
    share_planned DOUBLE,
    lever VARCHAR,
    value_now DOUBLE,
    value_planned DOUBLE,
    reason VARCHAR NOT NULL,
    PRIMARY KEY (decision_id, node)
);

CREATE TABLE applications (
    application_id VARCHAR PRIMARY KEY,
    decision_id VARCHAR NOT NULL UNIQUE,   -- a decision is applied once
    started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP,
    status VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    dagster_run_id VARCHAR NOT NULL
);

CREATE TABLE application_steps (
    application_id VARCHAR NOT NULL,
    step INTEGER NOT NULL,
    kind VARCHAR NOT NULL,                 -- apply | rollback
    node VARCHAR NOT NULL,
    lever VARCHAR NOT NULL,
    previous DOUBLE,
    requested DOUBLE NOT NULL,
    read_back DOUBLE,
    status VARCHAR NOT NULL,               -- intended | done | failed
    error VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP,
    PRIMARY KEY (application_id, step)
);

CREATE TABLE anomalies (
    slot TIMESTAMP NOT NULL,
    detected_at TIMESTAMP NOT NULL,
    node VARCHAR NOT NULL,
    rule VARCHAR NOT NULL,
    severity VARCHAR NOT NULL,             -- info | warning | critical
    score DOUBLE,
    evidence VARCHAR NOT NULL,
    remedy VARCHAR NOT NULL
);

CREATE TABLE plans (
    plan_id VARCHAR PRIMARY KEY,
    host VARCHAR NOT NULL,
    planned_at TIMESTAMP NOT NULL,
    plan VARCHAR NOT NULL,                 -- JSON of allocation.planner.Plan; empty when there is none
    reason VARCHAR NOT NULL,               -- why there is none
    dagster_run_id VARCHAR NOT NULL
);
