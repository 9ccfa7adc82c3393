-- By what a suspect is looked up besides tenant and id: a second body under a known id has a row of its own.
--
-- Rows that were there before have it computed when it is asked for, until a merge writes it.
ALTER TABLE raw ADD COLUMN IF NOT EXISTS
    sha256 String DEFAULT lower(hex(SHA256(body))) COMMENT 'of the body, hex' CODEC(ZSTD(1)) AFTER body
