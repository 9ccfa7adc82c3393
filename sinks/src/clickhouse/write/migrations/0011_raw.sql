-- The bodies as they came, byte for byte, for forensics and replay. Ordered as `events` is, for the same look-ups.
--
-- A merge of this table is mostly packing bodies, so it merges seldom, and whole weeks expire without being rewritten.
CREATE TABLE IF NOT EXISTS raw
(
    id          String COMMENT 'source, colon, the source''s own id' CODEC(ZSTD(1)),
    key         UInt64 DEFAULT reinterpretAsUInt64(substring(SHA256(id), 1, 8))
        COMMENT 'first 8 bytes of SHA-256 of the id, the least significant first' CODEC(NONE) SETTINGS (min_compress_block_size = 4096),
    tenant      LowCardinality(String) COMMENT 'whose event it is, as in subjects: lower case, and other bytes than letters, digits, _ and - as _ and two hex digits',
    source      LowCardinality(String) COMMENT 'where it was taken in, such as github or ndjson',
    event       LowCardinality(String) COMMENT 'the source''s name of the kind; for github the value of X-GitHub-Event',
    -- Of a row that does not tell it, the time in GitHub's GUID, as `EventId::created_at` reads it.
    event_time  DateTime64(6, 'UTC') DEFAULT fromUnixTimestamp64Micro(arrayMap(
        micros -> if(micros > 0 AND micros < 4102444800000000, micros, 0),
        [if(match(id, '^github:(?i)([0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{12}1[0-9a-f]{19})$'),
            toInt64(intDiv(reinterpretAsUInt64(reverse(unhex(concat('0',
                substring(replaceAll(substring(id, 8), '-', ''), 14, 3),
                substring(replaceAll(substring(id, 8), '-', ''), 9, 4),
                substring(replaceAll(substring(id, 8), '-', ''), 1, 8))))), 10)) - 12219292800000000, 0)])[1], 'UTC')
        COMMENT 'the time that came with the id, from what was delivered alone; 1970 when there is none before 2100' CODEC(Delta, ZSTD(1)) SETTINGS (min_compress_block_size = 4096),
    received_at DateTime64(6, 'UTC') COMMENT 'when the gateway received it first' CODEC(Delta, ZSTD(1)),
    held_until  DateTime64(6, 'UTC') EPHEMERAL COMMENT 'not stored: until when the server may take the row',
    inserted_at DateTime64(6, 'UTC') DEFAULT nowInBlock64(6, 'UTC') + toIntervalMicrosecond(throwIf(
        toUnixTimestamp64Micro(held_until) > 0 AND held_until < nowInBlock64(6, 'UTC'),
        'held too long: the rows belong to another process by now')) COMMENT 'when the row was written' CODEC(Delta, ZSTD(1)),
    sequence    UInt64 COMMENT 'sequence in the stream RAW' CODEC(Delta, ZSTD(1)),
    headers     Map(LowCardinality(String), String) COMMENT 'headers of the request that say what it is and how it is signed' CODEC(ZSTD(1)),
    body        String COMMENT 'byte for byte as it was signed' CODEC(ZSTD(1)),
    sha256      String DEFAULT lower(hex(SHA256(body))) COMMENT 'of the body, hex' CODEC(ZSTD(1)),
    -- 128 bits, because two bodies under one id must both be kept, whoever makes them.
    content_1   UInt64 DEFAULT reinterpretAsUInt64(substring(SHA256(concat(event, '\0', sha256)), 1, 8))
        COMMENT 'first 8 bytes of SHA-256 of event, NUL, sha256' CODEC(NONE) SETTINGS (min_compress_block_size = 4096),
    content_2   UInt64 DEFAULT reinterpretAsUInt64(substring(SHA256(concat(event, '\0', sha256)), 9, 8))
        COMMENT 'the 8 bytes after those of content_1' CODEC(NONE) SETTINGS (min_compress_block_size = 4096),
    INDEX key_index key TYPE bloom_filter(0.001) GRANULARITY 8
)
ENGINE = MergeTree
PARTITION BY toMonday(received_at)
ORDER BY (toStartOfHour(event_time), tenant, event_time, key)
TTL toDateTime(received_at) + INTERVAL 90 DAY
SETTINGS
    non_replicated_deduplication_window = 10000,
    index_granularity = 1024,
    -- Without this the engine forgets `key` in memory, and every row of unknown time is read.
    primary_key_ratio_of_unique_prefix_values_to_skip_suffix_columns = 1,
    vertical_merge_algorithm_min_rows_to_activate = 1,
    merge_selector_base = 20,
    ttl_only_drop_parts = 1
COMMENT 'the bodies as they came, byte for byte, with their signature headers'
