-- Sealed personal values, one row a token. Class and word are ASCII: a byte-wise collation compares them fastest.
-- Room is left in pages so that a value that is sealed anew can stay in its page, and its index entry as it is.
CREATE TABLE vault_value (
    class text COLLATE "C" NOT NULL,
    word text COLLATE "C" NOT NULL,
    generation integer NOT NULL CHECK (generation > 0),
    sealed bytea NOT NULL,
    first_position bigint NOT NULL,
    PRIMARY KEY (class, word)
) WITH (fillfactor = 85);

-- Values of each generation, kept up with every change: how far a rotation is must not cost a walk through all values.
CREATE TABLE vault_count (
    class text COLLATE "C" NOT NULL,
    generation integer NOT NULL,
    value_count bigint NOT NULL,
    PRIMARY KEY (class, generation)
);

-- Erasures outlive replays of the journal.
CREATE TABLE vault_tombstone (
    class text COLLATE "C" NOT NULL,
    word text COLLATE "C" NOT NULL,
    through_position bigint NOT NULL,
    blocked boolean NOT NULL,
    erasure_id text NOT NULL,
    time_ns bigint NOT NULL,
    PRIMARY KEY (class, word)
);

CREATE TABLE vault_progress (
    journal_id text COLLATE "C" PRIMARY KEY,
    applied_position bigint NOT NULL
);

-- Positions that were gone from the journal before they were applied. Their values can't be read until a backup is restored.
CREATE TABLE vault_gap (
    journal_id text COLLATE "C" NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    noted_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (journal_id, first_position, last_position)
);
