-- Whether a call's end is told to whom its Fn names: 0 is not known yet, 1 yes, 2 no.
ALTER TABLE calls ADD COLUMN tells INTEGER NOT NULL DEFAULT 0;

-- How a Fn is called, and whom its calls' ends are told, as JSON of the wire.
CREATE TABLE fns (
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    fn TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    url TEXT NOT NULL,
    timeout_ms INTEGER NOT NULL,
    attempts_max INTEGER,
    age_max_ms INTEGER,
    on_success TEXT,
    on_failure TEXT,
    deleted INTEGER NOT NULL,
    PRIMARY KEY (namespace, app, fn)
);
CREATE INDEX fns_gone ON fns (at_ms) WHERE deleted = 1;

-- One for each call and kind of end. The target, which may hold a credential, goes when nothing more is to be sent;
-- what is shown of it stays. due_ms is when it is to be sent next, and absent once that is never.
CREATE TABLE callbacks (
    call_id TEXT NOT NULL REFERENCES calls (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    target TEXT,
    shown TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    last_error TEXT,
    at_ms INTEGER NOT NULL,
    due_ms INTEGER,
    PRIMARY KEY (call_id, kind)
);
CREATE INDEX callbacks_by_due ON callbacks (namespace, app, due_ms) WHERE due_ms IS NOT NULL;
