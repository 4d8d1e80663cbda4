-- What looks wrong may be of a host, a token, a protocol or Orcha itself, and tells since when.
-- Earlier rows are all of nodes.

CREATE TABLE anomalies_of_all (
    slot TIMESTAMP NOT NULL,
    detected_at TIMESTAMP NOT NULL,
    rule VARCHAR NOT NULL,
    scope VARCHAR NOT NULL,                -- node | host | token | protocol | orcha
    subject VARCHAR NOT NULL,              -- its name
    node VARCHAR,                          -- NULL where it is of no single node
    host VARCHAR,
    severity VARCHAR NOT NULL,             -- info | warning | critical
    score DOUBLE,
    evidence VARCHAR NOT NULL,
    remedy VARCHAR NOT NULL,
    since TIMESTAMP                        -- when it began, where that is before it was detected
);

INSERT INTO anomalies_of_all
SELECT a.slot, a.detected_at, a.rule, 'node', a.node, a.node, n.host, a.severity, a.score, a.evidence, a.remedy, NULL
FROM anomalies a LEFT JOIN nodes n USING (node);

DROP TABLE anomalies;

ALTER TABLE anomalies_of_all RENAME TO anomalies;

CREATE TABLE judged_hours (                -- what the Isolation Forest said of an hour, which it judges once
    node VARCHAR NOT NULL,
    hour TIMESTAMP NOT NULL,
    score DOUBLE NOT NULL,
    threshold DOUBLE NOT NULL,             -- unusual above it
    evidence VARCHAR NOT NULL,             -- empty where it is ordinary
    PRIMARY KEY (node, hour)
);

ALTER TABLE balances ADD COLUMN oldest_at TIMESTAMP;   -- of the oldest document in it; NULL where nothing tells
