-- What each column of `raw` holds.
ALTER TABLE raw
    COMMENT COLUMN IF EXISTS id 'github: and the delivery GUID',
    COMMENT COLUMN IF EXISTS tenant 'whose event it is, as in subjects: lower case, and other bytes than letters, digits, _ and - as _ and two hex digits',
    COMMENT COLUMN IF EXISTS source 'where it was taken in: github',
    COMMENT COLUMN IF EXISTS event 'the value of X-GitHub-Event',
    COMMENT COLUMN IF EXISTS received_at 'when the gateway received it first',
    COMMENT COLUMN IF EXISTS valid_until 'not stored: until when the server may take the row',
    COMMENT COLUMN IF EXISTS inserted_at 'when the row was written',
    COMMENT COLUMN IF EXISTS sequence 'sequence in the stream RAW',
    COMMENT COLUMN IF EXISTS headers 'headers of the request that say what it is and how it is signed',
    COMMENT COLUMN IF EXISTS body 'byte for byte as it was signed',
    COMMENT COLUMN IF EXISTS sha256 'of the body, hex'
