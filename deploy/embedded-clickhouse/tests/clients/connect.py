"""clickhouse-connect against the port given as argument: Native inserts, LZ4 and gzip, parameters, settings, errors."""

import sys
from datetime import datetime

import clickhouse_connect
from clickhouse_connect.driver.exceptions import DatabaseError

for compress in (True, False, "gzip", "lz4"):
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=int(sys.argv[1]), database="test", compress=compress
    )
    client.command("DROP TABLE IF EXISTS connect")
    client.command(
        "CREATE TABLE connect (id UInt64, name String, at DateTime64(3), note Nullable(String)) "
        "ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
    )
    rows = [[number, f"name {number}", datetime.fromtimestamp(1700000000 + number), None] for number in range(50_000)]
    columns = ["id", "name", "at", "note"]
    client.insert("connect", rows, column_names=columns)

    result = client.query("SELECT * FROM connect ORDER BY id")
    assert len(result.result_rows) == 50_000
    assert result.result_rows[7][1] == "name 7", result.result_rows[7]
    assert result.summary["read_rows"] != "0", result.summary

    result = client.query(
        "SELECT name FROM connect WHERE id = {id:UInt64} OR name = {name:String} ORDER BY id",
        parameters={"id": 1, "name": "name 2"},
    )
    assert result.result_rows == [("name 1",), ("name 2",)], result.result_rows

    result = client.query("SELECT getSetting('max_threads')", settings={"max_threads": 3})
    assert result.result_rows == [(3,)], result.result_rows

    try:
        client.query("SELECT * FROM nosuch")
    except DatabaseError as error:
        assert "60" in str(error), error
    else:
        raise AssertionError("an unknown table was found")

    for _ in range(2):
        settings = {"insert_deduplication_token": "one", "async_insert": 0}
        client.insert("connect", [[1, "a", datetime.fromtimestamp(1), "b"]], column_names=columns, settings=settings)
    assert client.command("SELECT count() FROM connect") == 50_001
    client.close()
