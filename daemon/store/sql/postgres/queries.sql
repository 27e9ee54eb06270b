-- Statements that PostgreSQL says in other words than ../queries.sql, under the same names and with the same parameters;
-- and those about leadership, which SQLite has in a file lock.

-- name: places
SELECT id, seq FROM events WHERE source = $1 AND id IN (SELECT json_array_elements_text($2::json));

-- name: calls_due
SELECT id, run, step, verb, status, priority, due, deadline, attempt, epoch, lease, state, note FROM calls
WHERE status IN ('due', 'ending') AND due <= $1 AND run NOT IN (SELECT json_array_elements_text($2::json))
ORDER BY priority, due, step, id LIMIT $3;

-- name: hold_epoch
-- In a transaction of the leader: no new epoch can begin before it has ended. Its id tells later what became of it.
SELECT epoch, pg_current_xact_id()::text FROM leader FOR KEY SHARE;

-- name: outcome
-- What became of the transaction with this id.
SELECT pg_xact_status($1::text::xid8);

-- name: take_lead
-- Only when nobody leads. Asking holds nobody up: no row is locked unless the lease is over.
UPDATE leader SET epoch = epoch + 1, owner = $1, until = clock_timestamp() + make_interval(secs => $2)
WHERE until <= clock_timestamp() RETURNING epoch;

-- name: renew_lead
UPDATE leader SET until = clock_timestamp() + make_interval(secs => $2) WHERE epoch = $1;

-- name: leave_lead
UPDATE leader SET until = '-infinity' WHERE epoch = $1;

-- name: leader
SELECT epoch, owner, extract(epoch FROM until - clock_timestamp())::float8 FROM leader;
