//! The comments of the tables' columns.

use super::ready;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_column_of_every_table_has_a_comment() {
    let (case, _) = ready().await;
    let columns = |condition: &str| {
        let columns = "SELECT concat(table, '.', name) FROM system.columns WHERE database = 'headrace'";
        case.query(&format!("{columns} AND {condition} ORDER BY table, position"))
    };
    for table in ["events", "raw", "gaps", "conflicting_deliveries", "migrations"] {
        assert!(!columns(&format!("table = '{table}'")).is_empty(), "{table} is not there");
    }
    assert_eq!(columns("comment = ''"), "", "these have no comment");
}
