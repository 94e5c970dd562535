-- Tasks that were accepted and of which no beginning or end was heard: what the limit per owner counts.
CREATE TABLE unstarted (task_id text PRIMARY KEY, owner text NOT NULL, since timestamptz NOT NULL);
CREATE INDEX unstarted_by_owner ON unstarted (owner, since);
CREATE INDEX unstarted_by_age ON unstarted (since);
