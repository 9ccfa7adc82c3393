-- Deliveries that share tenant and id, and differ in their kind, their body or their event time. Of those with one time,
-- `events` has what the first one said that went through. One with another time is another event, with a row of its own.
-- An App's hook and an organization's send such deliveries; so does somebody who makes ids up.
--
-- It reads what `raw` holds of ids, kinds, times and hashes: ask for a tenant, or for ids.
CREATE OR REPLACE VIEW conflicting_deliveries
(
    tenant            String COMMENT 'whose events they are',
    id                String COMMENT 'the id that they share',
    deliveries        UInt64 COMMENT 'how many there are that differ',
    kinds             Array(String) COMMENT 'their kinds, in the order of RAW',
    hashes            Array(String) COMMENT 'SHA-256 of their bodies, hex, in the order of RAW',
    event_times       Array(DateTime64(6, 'UTC')) COMMENT 'the times that came with the id, in the order of RAW; 1970 when unknown',
    first_received_at DateTime64(6, 'UTC') COMMENT 'when the first came',
    last_received_at  DateTime64(6, 'UTC') COMMENT 'when the last came'
) AS
SELECT
    tenant,
    id,
    uniqExact(event, sha256, event_time) AS deliveries,
    arrayMap(found -> found.2, arraySort(groupArray((sequence, event)))) AS kinds,
    arrayMap(found -> found.2, arraySort(groupArray((sequence, sha256)))) AS hashes,
    arrayMap(found -> found.2, arraySort(groupArray((sequence, event_time)))) AS event_times,
    min(received_at) AS first_received_at,
    max(received_at) AS last_received_at
FROM raw
GROUP BY tenant, id
HAVING deliveries > 1
COMMENT 'deliveries that share an id and differ in kind, body or event time, in the order of RAW'
