-- One row per event, for ever exactly one: see `insert.rs`.
--
-- Ordered for exact look-ups: a suspect is found by its own event time, tenant and id, whatever its age, and reads next to
-- nothing. An order that begins with the time also makes merging cheap, because parts then hold times of their own.
-- Partitioned by `received_at`, because an insert may have events of any time, but only of few partitions.
CREATE TABLE IF NOT EXISTS events
(
    id                String COMMENT 'source, colon, the source''s own id; the same delivery sent again has the same id' CODEC(ZSTD(1)),
    key               UInt64 DEFAULT reinterpretAsUInt64(substring(SHA256(id), 1, 8))
        COMMENT 'first 8 bytes of SHA-256 of the id, the least significant first' CODEC(NONE) SETTINGS (min_compress_block_size = 4096),
    content           UInt64 DEFAULT reinterpretAsUInt64(substring(SHA256(concat(kind, '\0', raw_sha256)), 1, 8))
        COMMENT 'first 8 bytes of SHA-256 of kind, NUL, raw_sha256' CODEC(NONE) SETTINGS (min_compress_block_size = 4096),
    tenant            LowCardinality(String) COMMENT 'whose event it is, as in subjects: lower case, and other bytes than letters, digits, _ and - as _ and two hex digits',
    source            LowCardinality(String) COMMENT 'where it was taken in, such as github or ndjson',
    kind              LowCardinality(String) COMMENT 'the source''s name of the kind, such as push or repository',
    action            LowCardinality(String) COMMENT 'the webhook action; empty when the kind has none',
    audit_action      LowCardinality(String) COMMENT 'the audit-log name of the same act; empty when there is none',
    category          LowCardinality(String) COMMENT 'what it is about, such as access or code; other for a kind that the catalog does not know',
    outcome           LowCardinality(String) COMMENT 'how the act ended: success, failure or unknown',
    ocsf_class        UInt32 COMMENT 'class_uid of the OCSF event class' CODEC(T64, ZSTD(1)),
    -- Of a row that does not tell it, the time in GitHub's GUID, as `EventId::created_at` reads it.
    event_time        DateTime64(6, 'UTC') DEFAULT fromUnixTimestamp64Micro(arrayMap(
        micros -> if(micros > 0 AND micros < 4102444800000000, micros, 0),
        [if(match(id, '^github:(?i)([0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{12}1[0-9a-f]{19})$'),
            toInt64(intDiv(reinterpretAsUInt64(reverse(unhex(concat('0',
                substring(replaceAll(substring(id, 8), '-', ''), 14, 3),
                substring(replaceAll(substring(id, 8), '-', ''), 9, 4),
                substring(replaceAll(substring(id, 8), '-', ''), 1, 8))))), 10)) - 12219292800000000, 0)])[1], 'UTC')
        COMMENT 'the time that came with the id, from what was delivered alone; 1970 when there is none before 2100' CODEC(Delta, ZSTD(1)) SETTINGS (min_compress_block_size = 4096),
    occurred_at       DateTime64(6, 'UTC') COMMENT 'when it happened, as the body tells; when it was received where the body does not' CODEC(Delta, ZSTD(1)),
    received_at       DateTime64(6, 'UTC') COMMENT 'when the gateway received it first' CODEC(Delta, ZSTD(1)),
    stored_at         DateTime64(6, 'UTC') COMMENT 'when the broker stored it in EVENTS; 1970 of a row that was not made from there' CODEC(Delta, ZSTD(1)),
    moved             UInt8 DEFAULT 0 COMMENT '1 when the row was moved here from the table of an earlier release' CODEC(ZSTD(1)),
    -- Rows without it are always taken.
    held_until        DateTime64(6, 'UTC') EPHEMERAL COMMENT 'not stored: until when the server may take the row',
    -- Evaluated when the block is complete, not when the statement begins: a late one is refused.
    inserted_at       DateTime64(6, 'UTC') DEFAULT nowInBlock64(6, 'UTC') + toIntervalMicrosecond(throwIf(
        toUnixTimestamp64Micro(held_until) > 0 AND held_until < nowInBlock64(6, 'UTC'),
        'held too long: the rows belong to another process by now')) COMMENT 'when the row was written' CODEC(Delta, ZSTD(1)),
    actor_id          Int64 COMMENT 'id of the account that did it; 0 when unknown' CODEC(ZSTD(1)),
    actor             LowCardinality(String) COMMENT 'login of the account that did it; empty when unknown',
    actor_kind        LowCardinality(String) COMMENT 'User, Bot or Organization; empty when unknown',
    target_kind       LowCardinality(String) COMMENT 'what kind of thing it was done to, such as repository or member',
    target_id         String COMMENT 'its id; empty when it has none' CODEC(ZSTD(1)),
    target_name       String COMMENT 'its name; empty when it has none' CODEC(ZSTD(1)),
    target_url        String COMMENT 'its address for people; empty when it has none' CODEC(ZSTD(1)),
    organization_id   Int64 COMMENT 'id of the organization; 0 when there is none' CODEC(ZSTD(1)),
    organization      LowCardinality(String) COMMENT 'login of the organization; empty when there is none',
    repository_id     Int64 COMMENT 'id of the repository; 0 when there is none' CODEC(ZSTD(1)),
    repository        LowCardinality(String) COMMENT 'owner/name',
    visibility        LowCardinality(String) COMMENT 'of the repository now: public, private or internal; empty when unknown',
    default_branch    LowCardinality(String) COMMENT 'of the repository; empty when unknown',
    `changes.field`   Array(LowCardinality(String)) COMMENT 'names of the fields that changed; before, after and told are in the same order',
    `changes.before`  Array(String) COMMENT 'what they were; empty when the source does not tell',
    `changes.after`   Array(String) COMMENT 'what they are now; empty when the source does not tell',
    `changes.told`    Array(UInt8) COMMENT 'which of the two the source tells: 1 for before, 2 for after, added up',
    attributes        Map(LowCardinality(String), String) COMMENT 'facts particular to the kind, as the catalog names them' CODEC(ZSTD(1)),
    ip                String COMMENT 'address that it came from; empty where the source does not tell, as in webhooks' CODEC(ZSTD(1)),
    country           LowCardinality(String) COMMENT 'country code of the address; empty where the source does not tell',
    user_agent        LowCardinality(String) COMMENT 'program that it came from; empty where the source does not tell',
    raw_sequence      UInt64 COMMENT 'sequence in the stream RAW' CODEC(Delta, ZSTD(1)),
    raw_sha256        String COMMENT 'of the body as it was sent, hex' CODEC(ZSTD(1)),
    raw_bytes         UInt64 COMMENT 'length of the body as it was sent' CODEC(T64, ZSTD(1)),
    assets            Array(LowCardinality(String)) COMMENT 'names of the entries of the asset list that it belongs to',
    asset_owner       LowCardinality(String) COMMENT 'owner by the asset list; empty when none is known',
    asset_criticality LowCardinality(String) COMMENT 'criticality by the asset list: low, medium, high or critical; empty when none is known',
    asset_labels      Array(LowCardinality(String)) COMMENT 'labels by the asset list',
    risk              UInt8 COMMENT '0 to 100; 0 when no rule matched',
    severity          LowCardinality(String) COMMENT 'of the worst rule that matched; none when none did',
    rules             Array(LowCardinality(String)) COMMENT 'ids of the rules that matched',
    rule_titles       Array(LowCardinality(String)) COMMENT 'their titles, in the same order',
    techniques        Array(LowCardinality(String)) COMMENT 'MITRE ATT&CK technique ids',
    controls          Array(LowCardinality(String)) COMMENT 'controls that the rules name, such as cis.github-1.2.6',
    evidence          Array(String) COMMENT 'field=value pairs for which the rules matched' CODEC(ZSTD(1)),
    `reasons.code`    Array(LowCardinality(String)) COMMENT 'what gave or took points; the points add up to the risk',
    `reasons.points`  Array(Int32) COMMENT 'points of each reason, which add up to the risk',
    `reasons.text`    Array(String) COMMENT 'each reason in words',
    matches           String COMMENT 'the rules that matched with what belongs to each, as JSON; empty when none did' CODEC(ZSTD(1)),
    told              UInt32 COMMENT 'which optional parts the event has: bits, as in read/event.rs; 0 of a row that was moved' CODEC(T64, ZSTD(1)),
    INDEX key_index key TYPE bloom_filter(0.001) GRANULARITY 8,
    INDEX stored_at_index stored_at TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(received_at), moved)
ORDER BY (toStartOfHour(event_time), tenant, event_time, key)
SETTINGS
    non_replicated_deduplication_window = 10000,
    index_granularity = 1024,
    -- Without this the engine forgets `key` in memory, and every row of unknown time is read.
    primary_key_ratio_of_unique_prefix_values_to_skip_suffix_columns = 1,
    vertical_merge_algorithm_min_rows_to_activate = 1,
    merge_selector_base = 10
COMMENT 'what happened: one row per event'
