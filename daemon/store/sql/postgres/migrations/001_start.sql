-- As ../../migrations/001_start.sql, where the tables are explained. Texts compare by their bytes ("C"), as SQLite's do,
-- whatever the database's own order is. JSON stays text: an audit record is its bytes.

CREATE TABLE meta (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE events (
    seq BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    time TEXT COLLATE "C" NOT NULL,
    data TEXT COLLATE "C" NOT NULL,
    chain TEXT COLLATE "C" NOT NULL,
    undecidable TEXT COLLATE "C",
    UNIQUE (source, id)
);
CREATE INDEX events_by_type ON events (type);

CREATE TABLE decisions (
    seq BIGINT PRIMARY KEY,
    event BIGINT NOT NULL,
    rule TEXT COLLATE "C" NOT NULL,
    revision TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    verdict TEXT COLLATE "C" NOT NULL,
    admission TEXT COLLATE "C" NOT NULL,
    why TEXT COLLATE "C" NOT NULL,
    clauses TEXT COLLATE "C" NOT NULL,
    run TEXT COLLATE "C" NOT NULL
);
CREATE INDEX decisions_by_event ON decisions (event);

CREATE TABLE memory (
    rule TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (rule, key)
);

CREATE TABLE timers (
    id TEXT COLLATE "C" PRIMARY KEY,
    due BIGINT NOT NULL,
    rule TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    why TEXT COLLATE "C" NOT NULL
);
CREATE INDEX timers_by_due ON timers (due);

CREATE TABLE rulesets (
    revision TEXT COLLATE "C" PRIMARY KEY,
    loaded BIGINT NOT NULL,
    commit_id TEXT COLLATE "C" NOT NULL,
    files TEXT COLLATE "C" NOT NULL
);

CREATE TABLE runs (
    id TEXT COLLATE "C" PRIMARY KEY,
    rule TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    live BIGINT NOT NULL,
    created BIGINT NOT NULL,
    ended BIGINT,
    doc TEXT COLLATE "C" NOT NULL
);
CREATE INDEX runs_live ON runs (live, created);
CREATE INDEX runs_by_created ON runs (created);
CREATE INDEX runs_by_end ON runs (ended);

CREATE TABLE locks (
    target TEXT COLLATE "C" PRIMARY KEY,
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    since BIGINT NOT NULL
);

CREATE TABLE calls (
    id TEXT COLLATE "C" PRIMARY KEY,
    run TEXT COLLATE "C" NOT NULL REFERENCES runs (id),
    step BIGINT NOT NULL,
    verb TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    due BIGINT NOT NULL,
    deadline BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    lease BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    note TEXT COLLATE "C" NOT NULL
);
CREATE INDEX calls_due ON calls (status, due);
CREATE INDEX calls_by_run ON calls (run, step);

CREATE TABLE quarantine (
    model TEXT COLLATE "C" NOT NULL,
    created TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    run TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    released TEXT COLLATE "C",
    PRIMARY KEY (model, created, version)
);
CREATE INDEX quarantine_by_digest ON quarantine (model, digest);

CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    ref TEXT COLLATE "C" NOT NULL,
    body TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_by_ref ON audit (ref, seq) WHERE ref <> '';

CREATE TABLE problems (
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    place TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    dead_letter TEXT COLLATE "C" NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    count BIGINT NOT NULL
);
CREATE INDEX problems_by_last ON problems (last);

CREATE TABLE cursors (
    source TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE files (
    owner TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    mtime_ns BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    device BIGINT NOT NULL,
    PRIMARY KEY (owner, path)
);

CREATE TABLE gone (
    owner TEXT COLLATE "C" NOT NULL,
    content BYTEA NOT NULL,
    path BYTEA NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (owner, at, content)
);

CREATE TABLE progress (
    stream TEXT COLLATE "C" NOT NULL,
    partition TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (stream, partition)
);

CREATE TABLE states (
    stream TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    blob BYTEA NOT NULL,
    PRIMARY KEY (stream, key)
);

-- Who leads, and until when by this server's clock. The epoch is the row's key: a transaction of the leader holds the key
-- (FOR KEY SHARE), beside which the lease can be renewed but no new epoch can begin, until the transaction has ended.
CREATE TABLE leader (
    one BOOLEAN NOT NULL DEFAULT TRUE UNIQUE CHECK (one),
    epoch BIGINT PRIMARY KEY,
    owner TEXT NOT NULL,
    until TIMESTAMPTZ NOT NULL
);
INSERT INTO leader (epoch, owner, until) VALUES (0, '', '-infinity');
