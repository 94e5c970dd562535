-- The media type of the sample by its content, empty where it was settled before anybody asked.
ALTER TABLE prepared ADD COLUMN mime text NOT NULL DEFAULT '';
