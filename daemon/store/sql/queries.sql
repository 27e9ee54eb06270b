-- Every statement that the store makes, by name. `-- name: …` starts one; the lines of comment under it say what it is for.

-- name: epoch
SELECT value FROM meta WHERE name = 'epoch';

-- name: set_meta
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: meta
SELECT value FROM meta WHERE name = ?;

-- name: last_event
SELECT seq, at FROM events ORDER BY seq DESC LIMIT 1;

-- name: places
-- Of the events of one source with these ids (a JSON list), those that are stored.
SELECT id, seq FROM events WHERE source = ?1 AND id IN (SELECT value FROM json_each(?2));

-- name: add_event
INSERT INTO events (seq, at, type, subject, source, id, time, data, chain, undecidable)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: event
SELECT seq, at, type, subject, source, id, time, data, chain, undecidable FROM events WHERE seq = ?;

-- name: events_after
SELECT seq, at, type, subject, source, id, time, data, chain, undecidable FROM events WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: events_of
SELECT seq, at, type, subject, source, id, time, data, chain, undecidable FROM events
WHERE type = ? AND subject = ? AND seq > ? ORDER BY seq LIMIT ?;

-- name: events_newest
SELECT seq, at, type, subject, source, id, time, data, chain, undecidable FROM events
WHERE (?1 = '' OR type = ?1) AND (?2 = '' OR subject = ?2) ORDER BY seq DESC LIMIT ?3;

-- name: last_decision
SELECT coalesce(max(seq), 0) FROM decisions;

-- name: add_decision
INSERT INTO decisions (seq, event, rule, revision, key, verdict, admission, why, clauses, run)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: decision
SELECT seq, event, rule, revision, key, verdict, admission, why, clauses, run FROM decisions WHERE seq = ?;

-- name: decisions_of_event
SELECT seq, event, rule, revision, key, verdict, admission, why, clauses, run FROM decisions WHERE event = ? ORDER BY seq;

-- name: decisions_newest
SELECT seq, event, rule, revision, key, verdict, admission, why, clauses, run FROM decisions
WHERE (?1 = '' OR rule = ?1) AND (?2 = '' OR verdict = ?2) ORDER BY seq DESC LIMIT ?3;

-- name: decisions_after
SELECT seq, event, rule, revision, key, verdict, admission, why, clauses, run FROM decisions WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: decisions_of_key
-- What led to a decision: the same rule and key, newest first.
SELECT seq, event, rule, revision, key, verdict, admission, why, clauses, run FROM decisions
WHERE rule = ? AND key = ? AND seq <= ? ORDER BY seq DESC LIMIT ?;

-- name: memory
SELECT rule, key, state FROM memory;

-- name: memory_of_rule
SELECT key, state FROM memory WHERE rule = ? ORDER BY key;

-- name: put_memory
INSERT INTO memory (rule, key, state) VALUES (?, ?, ?) ON CONFLICT (rule, key) DO UPDATE SET state = excluded.state;

-- name: add_timer
INSERT INTO timers (id, due, rule, key, why) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING;

-- name: timers_due
SELECT id, due, rule, key, why FROM timers WHERE due <= ? ORDER BY due, id LIMIT ?;

-- name: next_timer
SELECT min(due) FROM timers;

-- name: timers_of_rule
SELECT due, key, why FROM timers WHERE rule = ? ORDER BY due, key;

-- name: drop_timer
DELETE FROM timers WHERE id = ?;

-- name: add_ruleset
INSERT INTO rulesets (revision, loaded, commit_id, files) VALUES (?, ?, ?, ?) ON CONFLICT (revision) DO UPDATE SET loaded = excluded.loaded;

-- name: ruleset
SELECT files FROM rulesets WHERE revision = ?;

-- name: newest_ruleset
SELECT files FROM rulesets ORDER BY loaded DESC LIMIT 1;

-- name: put_run
INSERT INTO runs (id, rule, model, state, live, created, ended, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, live = excluded.live, ended = excluded.ended, doc = excluded.doc;

-- name: run
SELECT doc FROM runs WHERE id = ?;

-- name: runs_like
SELECT doc FROM runs WHERE id LIKE ? || '%' LIMIT 2;

-- name: live_runs
SELECT doc FROM runs WHERE live = 1 ORDER BY created, id;

-- name: runs_since
SELECT doc FROM runs WHERE live = 1 OR ended > ? ORDER BY created, id;

-- name: runs_newest
SELECT doc FROM runs ORDER BY created DESC, id LIMIT ?;

-- name: locks
SELECT target, run FROM locks;

-- name: take_lock
INSERT INTO locks (target, run, since) VALUES (?, ?, ?);

-- name: drop_locks
DELETE FROM locks WHERE run = ?;

-- name: add_call
INSERT INTO calls (id, run, step, verb, status, priority, due, deadline, attempt, epoch, lease, state, note)
VALUES (?, ?, ?, ?, 'due', ?, ?, ?, 0, 0, 0, '{}', '') ON CONFLICT (id) DO NOTHING;

-- name: call
SELECT id, run, step, verb, status, priority, due, deadline, attempt, epoch, lease, state, note FROM calls WHERE id = ?;

-- name: calls_of_run
SELECT id, run, step, verb, status, priority, due, deadline, attempt, epoch, lease, state, note FROM calls
WHERE run = ? ORDER BY step;

-- name: call_over
-- When the run of a settled call ended; nothing while somebody may yet ask for what the call started.
SELECT runs.ended FROM calls JOIN runs ON runs.id = calls.run
WHERE calls.id = ? AND runs.live = 0 AND calls.status NOT IN ('due', 'claimed', 'ending', 'closing');

-- name: run_over
SELECT ended FROM runs WHERE id = ? AND live = 0;

-- name: calls_due
SELECT id, run, step, verb, status, priority, due, deadline, attempt, epoch, lease, state, note FROM calls
WHERE status IN ('due', 'ending') AND due <= ? AND run NOT IN (SELECT value FROM json_each(?)) ORDER BY priority, due, step, id LIMIT ?;

-- name: next_call
SELECT min(due) FROM calls WHERE status IN ('due', 'ending');

-- name: claim_call
UPDATE calls SET status = CASE status WHEN 'due' THEN 'claimed' ELSE 'closing' END, epoch = ?, lease = ?
WHERE id = ? AND status IN ('due', 'ending');

-- name: settle_call
-- Only by the claim that it was handed out under: a worker that was too slow, or of an earlier epoch, changes nothing.
UPDATE calls SET status = ?, due = ?, attempt = ?, state = ?, note = ?
WHERE id = ? AND status = 'claimed' AND epoch = ? AND lease = ?;

-- name: drop_call
-- A call that is not needed any more: whatever its handler answers later is refused.
-- One that was ever handed out may have started something, which is to be ended: `ending`, and `closing` at a worker.
UPDATE calls SET status = CASE epoch WHEN 0 THEN 'dropped' ELSE 'ending' END, note = ?, due = ?, attempt = 0
WHERE id = ? AND status IN ('due', 'claimed');

-- name: close_call
UPDATE calls SET status = ?, due = ?, attempt = ?
WHERE id = ? AND status = 'closing' AND epoch = ? AND lease = ?;

-- name: reclaim_calls
-- After a restart: what an earlier epoch had claimed is due again.
UPDATE calls SET status = CASE status WHEN 'claimed' THEN 'due' ELSE 'ending' END, due = ?
WHERE status IN ('claimed', 'closing') AND epoch < ?;

-- name: expired_leases
UPDATE calls SET status = CASE status WHEN 'claimed' THEN 'due' ELSE 'ending' END, due = ?
WHERE status IN ('claimed', 'closing') AND lease <= ?;

-- name: add_quarantine
INSERT INTO quarantine (model, created, version, digest, at, run, reason, released) VALUES (?, ?, ?, ?, ?, ?, ?, NULL)
ON CONFLICT (model, created, version) DO UPDATE SET digest = excluded.digest, at = excluded.at, run = excluded.run,
reason = excluded.reason, released = NULL;

-- name: quarantined
SELECT reason FROM quarantine WHERE model = ?1 AND released IS NULL
AND ((version = ?2 AND (created = ?3 OR ?3 = '' OR created = '')) OR (digest = ?4 AND ?4 <> '')) LIMIT 1;

-- name: quarantine
SELECT model, created, version, digest, at, run, reason, released FROM quarantine ORDER BY at, model, version;

-- name: release
UPDATE quarantine SET released = ? WHERE model = ? AND version = ? AND released IS NULL;

-- name: last_audit
SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1;

-- name: add_audit
INSERT INTO audit (seq, kind, ref, body, hash) VALUES (?, ?, ?, ?, ?);

-- name: audit_after
SELECT seq, kind, ref, body, hash FROM audit WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: audit_newest
SELECT seq, kind, ref, body, hash FROM audit WHERE (?1 = '' OR kind = ?1) ORDER BY seq DESC LIMIT ?2;

-- name: audit_of
SELECT seq, kind, ref, body, hash FROM audit WHERE ref = ? ORDER BY seq;

-- name: put_problem
INSERT INTO problems (id, kind, place, reason, dead_letter, first, last, count) VALUES (?, ?, ?, ?, ?, ?, ?, 1)
ON CONFLICT (id) DO UPDATE SET last = excluded.last, count = problems.count + 1;

-- name: problems
SELECT kind, place, reason, dead_letter, first, last, count FROM problems ORDER BY last DESC LIMIT ?;

-- name: problem_count
SELECT kind, CAST(sum(count) AS BIGINT) FROM problems GROUP BY kind ORDER BY kind;

-- name: cursor
SELECT value FROM cursors WHERE source = ?;

-- name: put_cursor
INSERT INTO cursors (source, value) VALUES (?, ?) ON CONFLICT (source) DO UPDATE SET value = excluded.value;

-- name: files
SELECT owner, path, size, mtime_ns, digest, status, device FROM files WHERE owner = ? AND path > ? ORDER BY path LIMIT ?;

-- name: file
SELECT status FROM files WHERE owner = ? AND path = ?;

-- name: put_file
INSERT INTO files (owner, path, size, mtime_ns, digest, status, device) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, digest = excluded.digest,
status = excluded.status, device = excluded.device;

-- name: drop_file
DELETE FROM files WHERE owner = ? AND path = ?;

-- name: gone
SELECT content, path, at FROM gone WHERE owner = ? AND (at, content) > (?, ?) ORDER BY at, content LIMIT ?;

-- name: put_gone
INSERT INTO gone (owner, content, path, at) VALUES (?, ?, ?, ?) ON CONFLICT (owner, at, content) DO NOTHING;

-- name: forget_gone
DELETE FROM gone WHERE owner = ? AND at <= ?;

-- name: progress
SELECT position FROM progress WHERE stream = ? AND partition = ?;

-- name: start_progress
INSERT INTO progress (stream, partition, position) VALUES (?, ?, 0) ON CONFLICT (stream, partition) DO NOTHING;

-- name: move_progress
UPDATE progress SET position = ? WHERE stream = ? AND partition = ? AND position = ?;

-- name: states
SELECT key, blob FROM states WHERE stream = ?;

-- name: put_state
INSERT INTO states (stream, key, blob) VALUES (?, ?, ?) ON CONFLICT (stream, key) DO UPDATE SET blob = excluded.blob;

-- name: drop_state
DELETE FROM states WHERE stream = ? AND key = ?;

-- name: run_count
SELECT state, count(*) FROM runs GROUP BY state;

-- name: state_bytes
SELECT stream, sum(length(blob)) FROM states GROUP BY stream;
