-- Whether a result is less than there was: plugins that read it are told.
ALTER TABLE produced ADD COLUMN is_truncated boolean NOT NULL DEFAULT false;
