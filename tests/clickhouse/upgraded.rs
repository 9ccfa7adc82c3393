//! Tables as earlier releases made and filled them: this release brings them to its version and changes no row.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::Sink as _;
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::{Event, RawReference};
use headrace_schemas::time::Timestamp;
use headrace_sinks::clickhouse::{Config, GapsRow, Received};
use headrace_tests::conformance::receiver::Case as _;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::standin::clickhouse::{Proxy, start_before};
use headrace_tests::standin::server::Server;

use super::{ClickHouseCase, MINUTE, assert_all};

/// The migrations as they were released. None is ever changed, so the first of them make the tables of that time.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sinks/src/clickhouse/write/migrations");
/// The record of them, as the first release made it.
const RECORD: &str = "CREATE TABLE IF NOT EXISTS migrations (version UInt32, name String, applied_at DateTime DEFAULT \
                      now()) ENGINE = ReplacingMergeTree ORDER BY version COMMENT 'which migrations were applied'";
/// A database that only this release has made.
const FRESH: &str = "fresh";
/// The migrations before which a table is renamed.
const MADE_ANEW: [(u32, &str); 2] = [(10, "events"), (11, "raw")];
/// A setting that not every server has, and the migrations that need it.
const STATISTICS: (&str, [u32; 2]) = ("auto_statistics_types", [13, 14]);
/// A body that comes later under a known id.
const OTHER_BODY: &str = r#"{"action":"publicized","body":"other"}"#;

/// Name and statement by version.
type Migrations = BTreeMap<u32, (String, String)>;

fn migrations() -> Migrations {
    let files = std::fs::read_dir(FOLDER).unwrap().map(|file| file.unwrap().path());
    let parsed = files.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (version, name) = name.split_once('_').unwrap();
        (version.parse::<u32>().unwrap(), (name.to_owned(), std::fs::read_to_string(&path).unwrap()))
    });
    parsed.collect()
}

/// A database, with what is delivered to it.
struct Upgrade<'a> {
    case: &'a ClickHouseCase,
    config: Config,
    /// The version of its tables.
    version: u32,
    /// When everything was received: recently, because bodies are kept for 90 days.
    received_at: Timestamp,
}

impl<'a> Upgrade<'a> {
    /// Makes the tables of `version`, and one row in each, as the release of that time did.
    fn start(case: &'a ClickHouseCase, migrations: &Migrations, version: u32) -> Self {
        let config = of(case, &format!("from_{version}"));
        let upgrade = Self { case, config, version, received_at: Timestamp::now().minus(Duration::from_secs(3_600)) };
        case.query(&format!("CREATE DATABASE {} ENGINE = Atomic", upgrade.config.database));
        upgrade.query(RECORD);
        for (number, (name, sql)) in migrations.range(..=version) {
            if let Some((_, table)) = MADE_ANEW.iter().find(|(made, _)| made == number) {
                upgrade.query(&format!("RENAME TABLE {table} TO {table}_1"));
            }
            upgrade.query(sql);
            upgrade.query(&format!("INSERT INTO migrations (version, name) VALUES ({number}, '{name}')"));
        }
        upgrade.insert_earlier();
        upgrade
    }

    fn query(&self, sql: &str) -> String {
        self.case.query_in(&self.config.database, sql)
    }

    fn delivery(&self, number: u16) -> RawDelivery {
        RawDelivery { received_at: self.received_at, ..RawDelivery::sample(number) }
    }

    fn event(&self, number: u16) -> Event {
        let raw = RawReference { sha256: self.delivery(number).sha256, ..Event::sample(number).raw };
        Event { received_at: self.received_at, raw, ..Event::sample(number) }
    }

    fn insert_earlier(&self) {
        let RawDelivery { id, body, sha256, .. } = self.delivery(1);
        let (body, at) = (std::str::from_utf8(&body).unwrap(), self.received_at.as_micros());
        let at = format!("fromUnixTimestamp64Micro({at}, 'UTC')");
        self.query(&format!(
            "INSERT INTO events (id, tenant, source, kind, action, audit_action, category, outcome, ocsf_class, \
             occurred_at, received_at, actor_id, actor, actor_kind, target_kind, target_id, target_name, \
             organization_id, organization, repository_id, repository, visibility, changes.field, changes.before, \
             changes.after, attributes, raw_sequence, raw_sha256, raw_bytes, risk, severity, rules, rule_titles, \
             techniques, evidence, reasons.code, reasons.points, reasons.text) \
             SELECT '{id}', 'acme', 'github', 'repository', 'publicized', 'repo.access', 'repository', 'success', \
             6003, {at}, {at}, 7, 'mona', 'User', 'repository', '9', 'acme/app-1', 5, 'acme', 1, 'acme/app-1', \
             'public', ['visibility'], ['private'], ['public'], map('ref', 'main'), 1, '{sha256}', 170, 85, 'high', \
             ['repository-made-public'], ['Repository made public'], ['T1567'], ['action=publicized'], \
             ['rule:repository-made-public'], [85], ['public']"
        ));
        if self.version >= 2 {
            // The column came with the fourth.
            let (column, value) =
                if self.version >= 4 { (", sha256", format!(", '{sha256}'")) } else { ("", String::new()) };
            self.query(&format!(
                "INSERT INTO raw (id, tenant, source, event, received_at, sequence, headers, body{column}) \
                 SELECT '{id}', 'acme', 'github', 'repository', {at}, 1, map('X-GitHub-Event', 'repository'), \
                 '{body}'{value}"
            ));
        }
        if self.version >= 3 {
            self.query(&format!(
                "INSERT INTO gaps (hook, hour, delivered, seen, recovered, waiting, missing, refused, too_old, \
                 checked_at) SELECT 'organization/acme/42', toDateTime({}, 'UTC'), 10, 7, 1, 0, 2, 0, 0, {at}",
                GapsRow::hour_of(self.received_at)
            ));
        }
    }

    /// The names of the columns that are stored, by table.
    fn columns(&self) -> BTreeMap<String, Vec<String>> {
        let stored = self.query(&format!(
            "SELECT table, name FROM system.columns WHERE database = '{}' AND default_kind != 'EPHEMERAL' \
             AND table IN ('events', 'raw', 'gaps') ORDER BY table, position",
            self.config.database
        ));
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (table, name) in stored.lines().filter_map(|line| line.split_once('\t')) {
            columns.entry(table.to_owned()).or_default().push(format!("`{name}`"));
        }
        columns
    }

    /// All rows, by table, of these columns.
    fn rows(&self, columns: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, String> {
        let rows = |(table, names): (&String, &Vec<String>)| {
            let rows = self.query(&format!("SELECT {} FROM {table}", names.join(", ")));
            let mut rows: Vec<&str> = rows.lines().collect();
            rows.sort_unstable();
            (table.clone(), rows.join("\n"))
        };
        columns.iter().map(rows).collect()
    }

    /// As [`Self::rows`], in the tables that now hold what was there before the upgrade.
    fn rows_after(&self, columns: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, String> {
        let mut renamed = columns.clone();
        for (_, table) in MADE_ANEW.iter().filter(|(made, _)| self.version < *made) {
            if let Some(names) = renamed.remove(*table) {
                renamed.insert(format!("{table}_1"), names);
            }
        }
        let rows = self.rows(&renamed).into_iter();
        rows.map(|(table, rows)| (table.trim_end_matches("_1").to_owned(), rows)).collect()
    }

    /// The values of `columns` in a table and in the earlier one.
    fn in_both(&self, columns: &str, table: &str) -> String {
        let both = format!("SELECT {columns} FROM {table} UNION ALL SELECT {columns} FROM {table}_1");
        self.query(&format!("SELECT * FROM ({both}) ORDER BY {columns}"))
    }

    fn record(&self) -> String {
        self.query("SELECT version, name, applied_at FROM migrations ORDER BY version, applied_at")
    }

    /// What comes after the upgrade: the earlier delivery again, another body under its id, and one that is new.
    async fn deliver(&self) {
        let from = self.version;
        assert_all(&self.config.events().deliver(&suspects(vec![self.event(1), self.event(2)])).await, 2);
        let (body, sha256) = (OTHER_BODY.into(), RawDelivery::sha256_of(OTHER_BODY.as_bytes()));
        let other = RawDelivery { body, sha256, ..self.delivery(1) };
        let deliveries = vec![self.delivery(1), other.clone(), self.delivery(2)];
        assert_all(&self.config.raw().deliver(&suspects(deliveries)).await, 3);

        let ids = [1, 2].map(|number| self.delivery(number).id.to_string());
        assert_eq!(self.in_both("id", "events"), format!("{}\n{}\n", ids[0], ids[1]), "{from}");
        let mut expected =
            [(&ids[0], self.delivery(1).sha256), (&ids[0], other.sha256), (&ids[1], self.delivery(2).sha256)]
                .map(|(id, sha256)| format!("{id}\t{sha256}\n"));
        expected.sort();
        assert_eq!(self.in_both("id, sha256", "raw"), expected.concat(), "{from}");
        let conflicts = self.query("SELECT tenant, id, deliveries FROM conflicting_deliveries");
        assert_eq!(conflicts, format!("acme\t{}\t2\n", ids[0]), "{from}");

        let hour = self.received_at;
        let found = self.config.raw_table().received(&ids, hour.minus(MINUTE), Timestamp::now()).await;
        let mut found = found.unwrap();
        found.sort_by(|one, other| one.id.cmp(&other.id));
        let received = |id: String| Received {
            id,
            tenant: "acme".to_owned(),
            event: "repository".to_owned(),
            received_at: self.received_at.as_micros(),
        };
        assert_eq!(found, ids.map(received), "{from}");

        let row = GapsRow {
            hook: "organization/acme/42".to_owned(),
            hour: GapsRow::hour_of(hour),
            delivered: 10,
            seen: 7,
            recovered: 3,
            waiting: 0,
            missing: 0,
            refused: 0,
            too_old: 0,
            checked_at: Timestamp::now().as_micros(),
        };
        self.config.gaps().write(&[row]).await.unwrap();
        let gaps = self.query("SELECT hook, delivered, recovered, missing FROM gaps FINAL");
        assert_eq!(gaps, "organization/acme/42\t10\t3\t0\n", "{from}");
    }
}

fn of(case: &ClickHouseCase, database: &str) -> Config {
    Config { database: database.to_owned(), ..case.with_long_timeout() }
}

fn suspects<T>(values: Vec<T>) -> Batch<T> {
    let item =
        |(sequence, value)| Item { value, suspect: true, redelivered: true, sequence, stored_at: Timestamp::default() };
    Batch::new((1..).zip(values).map(item).collect(), MINUTE)
}

/// Tables and columns with their types, defaults and comments, one line each.
fn shape(case: &ClickHouseCase, database: &str) -> String {
    let tables = format!(
        "SELECT name, engine_full, comment FROM system.tables WHERE database = '{database}' AND NOT endsWith(name, '_1')"
    );
    let columns = format!(
        "SELECT table, name, type, default_kind, default_expression, compression_codec, comment FROM system.columns \
         WHERE database = '{database}' AND NOT endsWith(table, '_1')"
    );
    case.query(&format!("{tables} ORDER BY name")) + &case.query(&format!("{columns} ORDER BY table, position"))
}

fn assert_broken(result: Result<(), Fault>, parts: &[&str]) {
    let fault = result.expect_err("these tables are not of this release");
    assert_eq!(fault.class, FaultClass::Broken, "{fault}");
    assert!(parts.iter().all(|part| fault.to_string().contains(part)), "expected {parts:?}, found {fault}");
}

/// Where the parts of the earlier versions begin, from the second on. The last part goes on to the newest.
const PARTS: [u32; 3] = [4, 6, 9];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_the_first_versions_are_brought_up_to_date() {
    are_brought_up_to_date(1..PARTS[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_the_next_versions_are_brought_up_to_date() {
    are_brought_up_to_date(PARTS[0]..PARTS[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_the_versions_after_these_are_brought_up_to_date() {
    are_brought_up_to_date(PARTS[1]..PARTS[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_the_last_versions_are_brought_up_to_date() {
    are_brought_up_to_date(PARTS[2]..newest()).await;
}

fn newest() -> u32 {
    *migrations().keys().last().unwrap()
}

async fn are_brought_up_to_date(versions: Range<u32>) {
    let (case, migrations) = (ClickHouseCase::start().await, migrations());
    of(&case, FRESH).events().check().await.unwrap();
    let fresh = shape(&case, FRESH);
    assert!(!versions.is_empty(), "a part without versions tests nothing");
    for version in versions {
        let upgrade = Upgrade::start(&case, &migrations, version);
        let (columns, database) = (upgrade.columns(), upgrade.config.database.clone());
        let before = upgrade.rows(&columns);
        assert!(before.values().all(|rows| rows.lines().count() == 1), "from {version}: {before:#?}");

        let waiting = Config { migrate: false, ..upgrade.config.clone() };
        let missing = format!("lacks migration {} ({})", version + 1, migrations[&(version + 1)].0);
        assert_broken(waiting.events().check().await, &[&missing, "sinks.clickhouse.migrate = true"]);
        assert_eq!(upgrade.rows(&columns), before, "from {version}: nothing was asked for");

        upgrade.config.events().check().await.unwrap();
        assert_eq!(upgrade.rows_after(&columns), before, "from {version}");
        assert_eq!(shape(&case, &database), fresh, "from {version}");
        let uncommented =
            format!("SELECT table, name FROM system.columns WHERE database = '{database}' AND comment = ''");
        assert_eq!(case.query(&uncommented), "", "from {version}: these columns have no comment");
        let hash = if version >= 2 { format!("{}\n", upgrade.delivery(1).sha256) } else { String::new() };
        assert_eq!(upgrade.in_both("sha256", "raw"), hash, "from {version}: of rows from before");
        waiting.events().check().await.unwrap();
        upgrade.deliver().await;

        let (columns, record) = (upgrade.columns(), upgrade.record());
        let (rows, versions) =
            (upgrade.rows(&columns), upgrade.query("SELECT version FROM migrations ORDER BY version"));
        let expected: String = migrations.keys().map(|version| format!("{version}\n")).collect();
        assert_eq!(versions, expected, "from {version}: each is recorded once");
        upgrade.config.migrate().await.unwrap();
        upgrade.config.restore().await.unwrap();
        assert_eq!((upgrade.rows(&columns), upgrade.record()), (rows, record), "from {version}: a second time");
        assert_eq!(shape(&case, &database), fresh, "from {version}: a second time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_later_release_are_refused_and_left_alone() {
    let (case, migrations) = (ClickHouseCase::start().await, migrations());
    let newest = newest();
    // Not all that this release knows is recorded: it must not begin with what it believes to be missing.
    let upgrade = Upgrade::start(&case, &migrations, newest - 1);
    upgrade.query(&format!("INSERT INTO migrations (version, name) VALUES ({}, 'to come')", newest + 1));
    let (columns, database) = (upgrade.columns(), upgrade.config.database.clone());
    let before = (upgrade.rows(&columns), upgrade.record(), shape(&case, &database));

    let (found, known) = (format!("migration {}", newest + 1), format!("this one knows {newest}"));
    let told: [&str; 4] = ["later release", &found, &known, "run that release or a later one"];
    for migrate in [true, false] {
        let config = Config { migrate, ..upgrade.config.clone() };
        assert_broken(config.events().check().await, &told);
        assert_broken(config.raw().check().await, &told);
        assert_broken(config.restore().await, &told);
    }
    assert_broken(upgrade.config.migrate().await, &told);
    assert_eq!((upgrade.rows(&columns), upgrade.record(), shape(&case, &database)), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_has_no_setting_for_is_applied_when_it_was_upgraded() {
    let (case, (setting, needing)) = (ClickHouseCase::start().await, STATISTICS);
    let asked = |server: &Server<Proxy>| {
        let bodies = server.recorded().into_iter().map(|request| request.body);
        bodies.filter(|body| String::from_utf8_lossy(body).contains(setting)).count()
    };
    let record = || case.query_in(FRESH, "SELECT version, applied_at FROM migrations ORDER BY version, applied_at");
    let versions = || case.query_in(FRESH, "SELECT version FROM migrations ORDER BY version");
    let lines = |versions: Vec<u32>| versions.iter().map(|version| format!("{version}\n")).collect::<String>();
    let with_setting = format!(
        "SELECT name FROM system.tables WHERE database = '{FRESH}' AND position(engine_full, '{setting}') > 0 ORDER BY name"
    );
    let without: Vec<u32> = migrations().into_keys().filter(|version| !needing.contains(version)).collect();
    let earlier = start_before(&case.server.url(), setting).await;
    let after = of(&case, FRESH);
    let before = Config { url: earlier.url(), ..after.clone() };

    // Later migrations are recorded, and each start asks once for these.
    for start in 1..=2 {
        before.events().check().await.unwrap();
        assert_eq!((versions(), asked(&earlier)), (lines(without.clone()), start));
    }
    case.query(&format!("DROP TABLE {FRESH}.raw SYNC"));
    before.restore().await.unwrap();
    for server in [&before, &after] {
        Config { migrate: false, ..server.clone() }.raw().check().await.unwrap();
    }
    assert_eq!((versions(), case.query(&with_setting)), (lines(without), String::new()));

    after.events().check().await.unwrap();
    let all = lines(migrations().into_keys().collect());
    assert_eq!((versions(), case.query(&with_setting)), (all, "events\nraw\n".to_owned()));
    let (record_then, asked_then) = (record(), asked(&case.proxy));
    after.raw().check().await.unwrap();
    assert_eq!((record(), asked(&case.proxy)), (record_then, asked_then), "a later start does and asks nothing");
    // A process that still meets the server of before changes nothing either.
    before.events().check().await.unwrap();
    assert_eq!(versions(), lines(migrations().into_keys().collect()));
}
