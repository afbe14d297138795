-- Times are Unix milliseconds. `request` and `answer` are JSON documents of the wire, bounded and redacted there.
CREATE TABLE calls (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    fn TEXT NOT NULL,
    number BIGINT NOT NULL,
    status TEXT NOT NULL,
    source TEXT,
    retry_of TEXT,
    submitted_ms BIGINT NOT NULL,
    started_ms BIGINT,
    completed_ms BIGINT,
    attempts BIGINT NOT NULL,
    started_attempt BIGINT NOT NULL,
    failed_attempt BIGINT NOT NULL,
    answer_attempt BIGINT NOT NULL,
    revision TEXT,
    runner TEXT,
    reason TEXT,
    request TEXT,
    answer TEXT
);

-- The list of an App, newest first, and with each of its filters.
CREATE UNIQUE INDEX calls_by_number ON calls (namespace, app, number);
CREATE INDEX calls_by_fn ON calls (namespace, app, fn, number);
CREATE INDEX calls_by_status ON calls (namespace, app, status, number);
-- The sweep.
CREATE INDEX calls_by_end ON calls (namespace, app, completed_ms);

CREATE TABLE call_logs (
    call_id TEXT NOT NULL REFERENCES calls (id) ON DELETE CASCADE,
    attempt BIGINT NOT NULL,
    log TEXT NOT NULL,
    PRIMARY KEY (call_id, attempt)
);

-- The last number given to a call of each App: counted up in the transaction that writes the call, so without a gap.
CREATE TABLE app_counters (
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    last_number BIGINT NOT NULL,
    PRIMARY KEY (namespace, app)
);

CREATE TABLE apps (
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    retention_ms BIGINT,
    record TEXT NOT NULL,
    deleted BIGINT NOT NULL,
    PRIMARY KEY (namespace, app)
);

CREATE TABLE claims (
    call_id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    claimant TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE INDEX claims_by_age ON claims (at_ms);
