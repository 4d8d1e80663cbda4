-- What a plan is made from, finer than hours.

CREATE TABLE rates_quarterly (
    node VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,         -- of a quarter of an hour
    usd_per_hour DOUBLE,                   -- net earnings at the price of the hour; NULL is unknown
    share DOUBLE,                          -- the share it ran at; NULL where unknown, or changed within the quarter
    PRIMARY KEY (node, started_at)
);
