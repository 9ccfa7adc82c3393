-- The bodies as they came, byte for byte, for forensics and replay.
CREATE TABLE IF NOT EXISTS raw
(
    id          String CODEC(ZSTD(1)),
    tenant      LowCardinality(String),
    source      LowCardinality(String),
    event       LowCardinality(String),
    received_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    valid_until DateTime64(6, 'UTC') EPHEMERAL,
    inserted_at DateTime64(6, 'UTC') DEFAULT nowInBlock64(6, 'UTC') + toIntervalMicrosecond(throwIf(
        toUnixTimestamp64Micro(valid_until) > 0 AND valid_until < nowInBlock64(6, 'UTC'),
        'held too long: the rows belong to another process by now')) CODEC(Delta, ZSTD(1)),
    sequence    UInt64 COMMENT 'sequence in the stream RAW' CODEC(Delta, ZSTD(1)),
    headers     Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    body        String CODEC(ZSTD(1)),
    INDEX id_index id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant, toStartOfHour(received_at), event, received_at)
TTL toDateTime(received_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, index_granularity_bytes = 10485760
COMMENT 'the bodies as they came, byte for byte, with their signature headers'
