-- What an insert writes is one file of data, not some ninety for the streams of its columns, which took a tenth of the
-- server's work for a row. Look-ups read as much, and what such parts merge into has files for each column.
ALTER TABLE raw MODIFY SETTING min_bytes_for_wide_part = 268435456
