-- A claim is one App's: what another says of the same id must not stand in its way. No runner has sent one so far.
DROP TABLE claims;
CREATE TABLE claims (
    call_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    claimant TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (call_id, namespace, app)
);
CREATE INDEX claims_by_age ON claims (at_ms);
CREATE INDEX claims_by_app ON claims (namespace, app, at_ms);
