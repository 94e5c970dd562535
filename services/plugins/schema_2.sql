-- What a stage that is taken up after a crash needs to know: which rule ended the watch, and whether the sample ran.
ALTER TABLE stages ADD COLUMN ended_by text, ADD COLUMN exec_error text NOT NULL DEFAULT '';
