-- How far the readings that are kept for long have been reduced.

CREATE TABLE rollups (
    fact VARCHAR PRIMARY KEY,              -- name of the table
    rolled_up_until TIMESTAMP NOT NULL     -- rows observed or issued before it are reduced; a full day
);
