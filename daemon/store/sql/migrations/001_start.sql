-- Everything driftd remembers. Times are microseconds since the epoch, UTC. JSON is canonical JSON as text.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID, STRICT;

-- What happened, in the order in which it was recorded. (source, id) names an event for good, so a repeat is seen; as a
-- source's ids grow with time, new ones lie close together in the index, which a hash of them would not do. The index by
-- type leaves out the subject for the same reason: few places grow, so a transaction writes few pages.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    time TEXT NOT NULL,
    data TEXT NOT NULL,
    chain TEXT NOT NULL,
    undecidable TEXT,
    UNIQUE (source, id)
) STRICT;
CREATE INDEX events_by_type ON events (type);

-- What each concerned rule made of each event.
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY,
    event INTEGER NOT NULL,
    rule TEXT NOT NULL,
    revision TEXT NOT NULL,
    key TEXT NOT NULL,
    verdict TEXT NOT NULL,
    admission TEXT NOT NULL,
    why TEXT NOT NULL,
    clauses TEXT NOT NULL,
    run TEXT NOT NULL
) STRICT;
CREATE INDEX decisions_by_event ON decisions (event);

CREATE TABLE memory (
    rule TEXT NOT NULL,
    key TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (rule, key)
) WITHOUT ROWID, STRICT;

CREATE TABLE timers (
    id TEXT PRIMARY KEY,
    due INTEGER NOT NULL,
    rule TEXT NOT NULL,
    key TEXT NOT NULL,
    why TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX timers_by_due ON timers (due);

-- Rule sets as they were loaded: what a decision's revision means, and what a replay decides with.
CREATE TABLE rulesets (
    revision TEXT PRIMARY KEY,
    loaded INTEGER NOT NULL,
    commit_id TEXT NOT NULL,
    files TEXT NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    rule TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL,
    live INTEGER NOT NULL,
    created INTEGER NOT NULL,
    ended INTEGER,
    doc TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX runs_live ON runs (live, created);
CREATE INDEX runs_by_created ON runs (created);
CREATE INDEX runs_by_end ON runs (ended);

-- A lock is a row: two runs on one target cannot be.
CREATE TABLE locks (
    target TEXT PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (id),
    since INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

-- One call per step; `claimed` by an epoch until its lease ends.
CREATE TABLE calls (
    id TEXT PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (id),
    step INTEGER NOT NULL,
    verb TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    state TEXT NOT NULL,
    note TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX calls_due ON calls (status, due);
CREATE INDEX calls_by_run ON calls (run, step);

CREATE TABLE quarantine (
    model TEXT NOT NULL,
    created TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    at INTEGER NOT NULL,
    run TEXT NOT NULL,
    reason TEXT NOT NULL,
    released TEXT,
    PRIMARY KEY (model, created, version)
) WITHOUT ROWID, STRICT;
CREATE INDEX quarantine_by_digest ON quarantine (model, digest);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    ref TEXT NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_ref ON audit (ref, seq) WHERE ref <> '';

CREATE TABLE problems (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    place TEXT NOT NULL,
    reason TEXT NOT NULL,
    dead_letter TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    count INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX problems_by_last ON problems (last);

CREATE TABLE cursors (
    source TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE files (
    owner TEXT NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    digest TEXT NOT NULL,
    status TEXT NOT NULL,
    device INTEGER NOT NULL,
    PRIMARY KEY (owner, path)
) WITHOUT ROWID, STRICT;

-- Of files that are gone, what tells that a content, or the file itself, comes back: both as hashes (`clients/gone.py`).
CREATE TABLE gone (
    owner TEXT NOT NULL,
    content BLOB NOT NULL,
    path BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (owner, at, content)
) WITHOUT ROWID, STRICT;

CREATE TABLE progress (
    stream TEXT NOT NULL,
    partition TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (stream, partition)
) WITHOUT ROWID, STRICT;

CREATE TABLE states (
    stream TEXT NOT NULL,
    key TEXT NOT NULL,
    blob BLOB NOT NULL,
    PRIMARY KEY (stream, key)
) WITHOUT ROWID, STRICT;
