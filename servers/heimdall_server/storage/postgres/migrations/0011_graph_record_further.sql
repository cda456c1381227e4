-- What records of dumps said under a number that another record has in `graph_record`: the number's first one stands there, all further ones here.
CREATE TABLE graph_record_further (
    provenance integer NOT NULL,
    number bigint NOT NULL,
    -- The same 64 bits, with a sign.
    hash bigint NOT NULL,
    PRIMARY KEY (provenance, number, hash)
);
