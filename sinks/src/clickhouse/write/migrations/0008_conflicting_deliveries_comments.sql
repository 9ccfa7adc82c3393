-- What each column of the view `conflicting_deliveries` holds.
ALTER TABLE conflicting_deliveries
    COMMENT COLUMN IF EXISTS tenant 'whose events they are',
    COMMENT COLUMN IF EXISTS id 'the id that they share',
    COMMENT COLUMN IF EXISTS deliveries 'how many there are that differ',
    COMMENT COLUMN IF EXISTS kinds 'their kinds, in the order of RAW',
    COMMENT COLUMN IF EXISTS hashes 'SHA-256 of their bodies, hex, in the order of RAW',
    COMMENT COLUMN IF EXISTS first_received_at 'when the first came',
    COMMENT COLUMN IF EXISTS last_received_at 'when the last came'
