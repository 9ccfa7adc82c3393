-- One row per event, for ever exactly one: see `insert.rs`.
--
-- Ordered for the questions that are asked: a tenant's events of some hours, of some kind, by whom, where.
-- The order and the partitions follow `received_at`, because it is the same whenever an event comes again:
-- a suspect is found by a narrow range of the primary key.
CREATE TABLE IF NOT EXISTS events
(
    id                String CODEC(ZSTD(1)),
    tenant            LowCardinality(String),
    source            LowCardinality(String),
    kind              LowCardinality(String),
    action            LowCardinality(String) COMMENT 'the webhook action; empty when the kind has none',
    audit_action      LowCardinality(String) COMMENT 'the audit-log name of the same act; empty when there is none',
    category          LowCardinality(String),
    outcome           LowCardinality(String),
    ocsf_class        UInt32 CODEC(T64, ZSTD(1)),
    occurred_at       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    -- Not stored: until when the server may take the row. Rows without it are always taken.
    valid_until       DateTime64(6, 'UTC') EPHEMERAL,
    -- Evaluated when the block is complete, not when the statement begins: a late one is refused.
    inserted_at       DateTime64(6, 'UTC') DEFAULT nowInBlock64(6, 'UTC') + toIntervalMicrosecond(throwIf(
        toUnixTimestamp64Micro(valid_until) > 0 AND valid_until < nowInBlock64(6, 'UTC'),
        'held too long: the rows belong to another process by now')) CODEC(Delta, ZSTD(1)),
    actor_id          Int64 CODEC(ZSTD(1)),
    actor             LowCardinality(String),
    actor_kind        LowCardinality(String),
    target_kind       LowCardinality(String),
    target_id         String CODEC(ZSTD(1)),
    target_name       String CODEC(ZSTD(1)),
    target_url        String CODEC(ZSTD(1)),
    organization_id   Int64 CODEC(ZSTD(1)),
    organization      LowCardinality(String),
    repository_id     Int64 CODEC(ZSTD(1)),
    repository        LowCardinality(String) COMMENT 'owner/name',
    visibility        LowCardinality(String),
    changes           Nested(field LowCardinality(String), before String, after String),
    attributes        Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ip                String CODEC(ZSTD(1)),
    country           LowCardinality(String),
    user_agent        LowCardinality(String),
    raw_sequence      UInt64 COMMENT 'sequence in the stream RAW' CODEC(Delta, ZSTD(1)),
    raw_sha256        String COMMENT 'of the body as it was sent, hex' CODEC(ZSTD(1)),
    raw_bytes         UInt64 CODEC(T64, ZSTD(1)),
    assets            Array(LowCardinality(String)),
    asset_owner       LowCardinality(String),
    asset_criticality LowCardinality(String),
    asset_labels      Array(LowCardinality(String)),
    risk              UInt8,
    severity          LowCardinality(String) COMMENT 'of the worst rule that matched; none when none did',
    rules             Array(LowCardinality(String)) COMMENT 'ids of the rules that matched',
    rule_titles       Array(LowCardinality(String)),
    techniques        Array(LowCardinality(String)) COMMENT 'MITRE ATT&CK technique ids',
    controls          Array(LowCardinality(String)),
    evidence          Array(String) CODEC(ZSTD(1)),
    reasons           Nested(code LowCardinality(String), points Int32, text String)
        COMMENT 'their points add up to the risk',
    INDEX id_index id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX occurred_at_index occurred_at TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant, toStartOfHour(received_at), kind, actor, repository, received_at)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'what happened: one row per event'
