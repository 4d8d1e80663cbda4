-- Nodes that are left alone since a change of them could not be taken back.

CREATE TABLE freezes (
    node VARCHAR NOT NULL,
    frozen_at TIMESTAMP NOT NULL,
    application_id VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,               -- what the operator is to do
    lifted_at TIMESTAMP,                   -- NULL: it is frozen
    lifted_by VARCHAR,                     -- who, or "recovery" where the node was set back later
    PRIMARY KEY (node, application_id)
);
