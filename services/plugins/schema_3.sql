-- The plugins that were said to be there, so that one that is gone can be taken back.
CREATE TABLE registered (name text PRIMARY KEY);
