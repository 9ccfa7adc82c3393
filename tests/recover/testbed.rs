//! GitHub with three hooks, and `up`, which recovers their deliveries.

use std::path::{Path, PathBuf};

use headrace_local::poll;
use headrace_tests::harness::CEILING;
use headrace_tests::product::process::{Launch, Running, command, complained, said};
use headrace_tests::product::stored::Stored;
use headrace_tests::standin::github::{APP_HOOK, APP_ID, GitHub, TOKEN};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::PROGRAM;

/// The organization's hook, by its route at GitHub.
pub(crate) const ORG_HOOK: &str = "/orgs/acme/hooks/7";
/// The repository's hook. Headrace reads it as the App's installation.
pub(crate) const REPO_HOOK: &str = "/repos/acme/app/hooks/8";
/// The same three hooks, as Headrace names them.
pub(crate) const NAMES: [&str; 3] = ["app/4711", "organization/acme/7", "repository/acme/app/8"];

/// Each hour in the table `gaps`: the hook, the hour, and all counts.
const HOURS: &str = "SELECT hook, formatDateTime(hour, '%FT%T.000000Z'), \
                     [delivered, seen, recovered, waiting, missing, refused, too_old] FROM gaps FINAL ORDER BY hook, hour";

/// GitHub, and a directory for the product.
pub(crate) struct Testbed {
    /// GitHub.
    pub(crate) github: GitHub,
    /// Everything that the product writes.
    pub(crate) dir: TempDir,
}

/// The report of `headrace gaps`.
#[derive(Debug)]
pub(crate) struct Gaps {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// The report as JSON. Null when there is none.
    pub(crate) report: Value,
    /// Its stderr.
    pub(crate) complaint: String,
}

impl Gaps {
    /// A count of a hook, over all hours.
    pub(crate) fn count(&self, hook: &str, state: &str) -> u64 {
        self.hook(hook)["total"][state].as_u64().unwrap_or_default()
    }

    /// The counts of a hook: delivered, seen, recovered, missing.
    pub(crate) fn counts(&self, hook: &str) -> [u64; 4] {
        ["delivered", "seen", "recovered", "missing"].map(|state| self.count(hook, state))
    }

    /// Each hour, in the form of the table `gaps`.
    fn hours(&self) -> Vec<(String, String, Vec<u64>)> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let states = ["delivered", "seen", "recovered", "waiting", "missing", "refused", "too_old"];
        let hours = list(&self.report["hooks"]).into_iter().flat_map(|hook| {
            let hours = list(&hook["hours"]).into_iter();
            hours.map(move |hour| {
                let counts = states.map(|state| hour[state].as_u64().unwrap_or_default());
                (text(&hook["hook"]), text(&hour["hour"]), counts.to_vec())
            })
        });
        hours.collect()
    }

    /// The report on a hook.
    pub(crate) fn hook(&self, hook: &str) -> &Value {
        let hooks = self.report["hooks"].as_array();
        hooks.and_then(|hooks| hooks.iter().find(|own| own["hook"] == hook)).unwrap_or(&Value::Null)
    }
}

impl Testbed {
    pub(crate) async fn start() -> Self {
        let github = GitHub::start(&[APP_HOOK, ORG_HOOK, REPO_HOOK]).await;
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("app.pem"), github.app().private_key()).unwrap();
        Self { github, dir }
    }

    /// Writes a configuration with these lines added to `[recover]`, and with the tables `more`.
    pub(crate) fn configure(&self, lines: &str, more: &str) -> PathBuf {
        let key = self.dir.path().join("app.pem");
        let key = key.display();
        // The API of GitHub Enterprise Server is below a path.
        let url = self.github.url();
        let text = format!(
            "{more}\n[recover]\napi_url = '{url}/api/v3'\ninterval_s = 1\nlease_s = 3\ntimeout_ms = 2000\n{lines}\n\
             [[recover.hooks]]\nkind = 'app'\napp_id = {APP_ID}\nprivate_key_file = '{key}'\n\
             [[recover.hooks]]\nkind = 'organization'\norganization = 'acme'\nhook_id = 7\ntoken = '{TOKEN}'\n\
             [[recover.hooks]]\nkind = 'repository'\nrepository = 'acme/app'\nhook_id = 8\napp_id = {APP_ID}\n\
             private_key_file = '{key}'\n"
        );
        let path = self.dir.path().join("headrace.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts `up` and lets GitHub deliver to it.
    pub(crate) async fn up(&self, config: &Path) -> Running {
        let up = Launch::up(PROGRAM, self.dir.path()).argument("--config").argument(config).start().await;
        let (gateway, secret) = (up.ready().gateway.clone().unwrap(), up.ready().webhook_secret.clone().unwrap());
        self.github.deliver_to(&gateway, &secret);
        up
    }

    /// Makes a hook send this many deliveries. The gateway must answer each with `status`. Returns their GUIDs.
    pub(crate) async fn emit(&self, hook: &str, times: usize, status: u16) -> Vec<String> {
        let mut guids = Vec::new();
        for _ in 0..times {
            let number = self.github.data().hooks[hook].attempts.len();
            let (guid, found) = self.github.emit(hook, "repository", publicized(number)).await;
            assert_eq!(found, status, "{hook} {guid}");
            guids.push(guid);
        }
        guids
    }

    /// Runs `headrace gaps`.
    pub(crate) async fn gaps(&self, config: &Path) -> Gaps {
        let data = self.dir.path().join("data");
        let arguments = ["gaps".as_ref(), "--json".as_ref(), "--config".as_ref(), config.as_os_str()];
        let output = command(PROGRAM, arguments.into_iter().chain(["--data-dir".as_ref(), data.as_os_str()])).await;
        let report = serde_json::from_str(&said(&output)).unwrap_or_default();
        Gaps { code: output.status.code(), report, complaint: complained(&output) }
    }

    /// Waits until the table `gaps` agrees with `headrace gaps`.
    pub(crate) async fn until_table_agrees(&self, config: &Path, stored: &Stored) {
        let agrees = async || {
            let reported = self.gaps(config).await.hours();
            (!reported.is_empty() && stored.rows::<(String, String, Vec<u64>)>(HOURS).await == reported).then_some(())
        };
        if let Err(error) = poll::until("the table holds all hours", CEILING, agrees).await {
            let rows = stored.objects("SELECT * FROM gaps FINAL").await;
            panic!("{error}; found {rows:#?} and {:#?}", self.gaps(config).await);
        }
    }

    /// Waits until the report of `headrace gaps` meets `condition`.
    pub(crate) async fn until_gaps(&self, what: &str, config: &Path, condition: impl Fn(&Gaps) -> bool) -> Gaps {
        let asked = poll::until(what, CEILING, async || Some(self.gaps(config).await).filter(&condition)).await;
        match asked {
            Ok(gaps) => gaps,
            Err(error) => panic!("{error}; found {:#?}", self.gaps(config).await),
        }
    }
}

/// A body that a rule matches. Each number makes another body.
fn publicized(number: usize) -> Vec<u8> {
    let repository =
        json!({ "id": number, "name": "app", "full_name": "acme/app", "private": false, "owner": { "login": "acme" } });
    let sender = json!({ "id": 7, "login": "mona", "type": "User" });
    let organization = json!({ "id": 5, "login": "acme" });
    let body =
        json!({ "action": "publicized", "repository": repository, "organization": organization, "sender": sender });
    body.to_string().into_bytes()
}

/// Waits until each of `tables` has exactly `count` rows, with as many ids.
pub(crate) async fn holds_each_once(stored: &Stored, tables: &[&str], count: u64) {
    for table in tables {
        stored.until_count(&format!("SELECT uniqExact(id) FROM {table}"), count).await;
        stored.until_count(&format!("SELECT count() FROM {table}"), count).await;
    }
}
