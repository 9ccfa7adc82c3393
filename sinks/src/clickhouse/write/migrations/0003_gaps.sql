-- What GitHub tried to deliver and what arrived, by hook and hour: what `headrace gaps` shows, for dashboards.
--
-- An hour is written again whenever it changes; the row of the latest run counts, so ask with FINAL:
--   SELECT hour, hook, delivered, missing FROM gaps FINAL WHERE hour >= now() - INTERVAL 7 DAY ORDER BY hour
-- Nothing is ever removed: a hook has 24 rows a day at most.
CREATE TABLE IF NOT EXISTS gaps
(
    hook       LowCardinality(String) COMMENT 'organization/acme/42, repository/acme/app/42, app/123456',
    hour       DateTime('UTC') COMMENT 'in which GitHub first sent the deliveries' CODEC(Delta, ZSTD(1)),
    delivered  UInt64 COMMENT 'those that GitHub lists: seen + recovered + waiting + missing' CODEC(T64, ZSTD(1)),
    seen       UInt64 COMMENT 'stored when GitHub first sent them' CODEC(T64, ZSTD(1)),
    recovered  UInt64 COMMENT 'stored because they were sent again' CODEC(T64, ZSTD(1)),
    waiting    UInt64 COMMENT 'too young to tell, or ClickHouse was away or behind' CODEC(T64, ZSTD(1)),
    missing    UInt64 COMMENT 'not stored' CODEC(T64, ZSTD(1)),
    refused    UInt64 COMMENT 'of the missing, those that GitHub last refused to send again' CODEC(T64, ZSTD(1)),
    too_old    UInt64 COMMENT 'of the missing, those that GitHub no longer has' CODEC(T64, ZSTD(1)),
    checked_at DateTime64(6, 'UTC') COMMENT 'the beginning of the run that found this' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(checked_at)
ORDER BY (hook, hour)
COMMENT 'what became of the deliveries of each hook and hour; ask with FINAL'
