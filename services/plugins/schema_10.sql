-- Plugins that are given up until somebody decides otherwise, by the digest of their files: a restart changes nothing.
CREATE TABLE quarantined (
    digest text PRIMARY KEY,
    name   text NOT NULL,
    reason text NOT NULL,
    times  integer NOT NULL,
    since  timestamptz NOT NULL
);
