-- Deliveries that share tenant and id, and differ in their kind or their body: one event, of which `events` has what the
-- first one said that went through. An App's hook and an organization's do so; so does somebody who makes ids up.
--
-- It reads what `raw` holds of ids, kinds and hashes: ask for a tenant, or for ids.
CREATE VIEW IF NOT EXISTS conflicting_deliveries AS
SELECT
    tenant,
    id,
    uniqExact(event, sha256) AS deliveries,
    arrayMap(found -> found.2, arraySort(groupArray((sequence, event)))) AS kinds,
    arrayMap(found -> found.2, arraySort(groupArray((sequence, sha256)))) AS hashes,
    min(received_at) AS first_received_at,
    max(received_at) AS last_received_at
FROM raw
GROUP BY tenant, id
HAVING deliveries > 1
COMMENT 'deliveries that share an id and differ in kind or body, in the order of RAW'
