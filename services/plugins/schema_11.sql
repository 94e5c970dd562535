-- Whether the sample is an archive whose file no password opened: it is analysed as itself, and no guest runs it.
ALTER TABLE prepared ADD COLUMN is_locked boolean NOT NULL DEFAULT false;
