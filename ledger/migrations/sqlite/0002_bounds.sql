-- When the last was heard of a call, what its request, answer and logs weigh, and whether they had to make room.
ALTER TABLE calls ADD COLUMN heard_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN trimmed INTEGER NOT NULL DEFAULT 0;

-- No attempt is beyond a durable queue's delivery limit.
DELETE FROM call_logs WHERE attempt > 101;
UPDATE calls SET heard_ms = COALESCE(started_ms, submitted_ms),
    bytes = COALESCE(OCTET_LENGTH(request), 0) + COALESCE(OCTET_LENGTH(answer), 0)
        + (SELECT COALESCE(SUM(OCTET_LENGTH(log)), 0) FROM call_logs WHERE call_id = calls.id);

-- The sweep: what an App's calls weigh, newest first; which calls nothing is heard of; how many claims an App has.
CREATE INDEX calls_by_weight ON calls (namespace, app, number, bytes) WHERE bytes > 0;
CREATE INDEX calls_by_silence ON calls (heard_ms) WHERE completed_ms IS NULL;
CREATE INDEX claims_by_app ON claims (namespace, app, at_ms);
