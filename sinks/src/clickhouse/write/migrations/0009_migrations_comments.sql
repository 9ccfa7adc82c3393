-- What each column of `migrations` holds.
ALTER TABLE migrations
    COMMENT COLUMN IF EXISTS version 'number of the migration',
    COMMENT COLUMN IF EXISTS name 'what it makes',
    COMMENT COLUMN IF EXISTS applied_at 'when it was applied'
