-- Where the money that was earned stands: accrued, pending, settled, held. Kinds are never added up.

CREATE TABLE balances (
    node VARCHAR NOT NULL,
    slot TIMESTAMP NOT NULL,               -- quarter of an hour of the reading: a slot read again is replaced
    observed_at TIMESTAMP NOT NULL,
    kind VARCHAR NOT NULL,                 -- accrued | pending | settled | doubtful | lost | held | undistributed
    account VARCHAR NOT NULL,              -- tells balances of one kind apart: a satellite, a payment platform
    counted_since TIMESTAMP,               -- what happened before is not counted
    unit VARCHAR NOT NULL,
    amount DECIMAL(38, 18),
    provenance VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    note VARCHAR NOT NULL
);
