-- Bodies in the object store, each from before its first byte is written: what it takes there, since when, and whether
-- its call was known once.
CREATE TABLE objects (
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    call_id TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    known INTEGER NOT NULL,
    PRIMARY KEY (namespace, app, call_id)
);
