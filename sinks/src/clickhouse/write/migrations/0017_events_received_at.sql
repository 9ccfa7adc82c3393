-- Whoever asks for the rows that were not made from EVENTS asks by the time of reception. Parts get the index as they are
-- merged; until then, granules without it are read.
ALTER TABLE events
    ADD INDEX IF NOT EXISTS received_at_index received_at TYPE minmax GRANULARITY 1,
    COMMENT COLUMN IF EXISTS stored_at 'when the broker stored its message: in EVENTS, or in CATCHUP where a copy of the store was brought it once more; 1970 of a row that was not made of a message'
