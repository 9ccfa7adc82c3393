//! What `up` prints when everything answers. It must show no password. A webhook secret that was just made is shown once,
//! to a terminal.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};

use headrace_ingest::ndjson::Ndjson;
use headrace_ingest::source::Source as _;
use headrace_local::nats::SyncInterval;
use headrace_runtime::secret::redact_url;
use headrace_sinks::instances::Instance;

use super::{Servers, token_file};
use crate::cli::{output, plain};
use crate::config::Config;
use crate::installation::data_dir::{CLICKHOUSE_READER_PASSWORD, DataDir};
use crate::installation::ready::Ready;
use crate::installation::secret_origin::SecretOrigin;
use crate::nats::users::User;

/// Prints where everything answers, and what to try first.
///
/// # Errors
/// When standard output takes nothing.
pub(super) fn print(
    ready: &Ready,
    config: &Config,
    servers: &Servers,
    data: &DataDir,
    secret: &SecretOrigin,
    away: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let mut out = Vec::new();
    // An address may hold a password, so hide it.
    let text = |optional: &Option<String>| optional.as_deref().map_or_else(|| "-".to_owned(), redact_url);
    let made = ready.webhook_secret.as_deref().filter(|_| io::stdout().is_terminal());
    writeln!(out, "Headrace is running. Data: {}", data.path().display())?;
    writeln!(out)?;
    writeln!(out, "  webhooks    {}/webhooks/github", text(&ready.gateway))?;
    writeln!(out, "  secret      {}", secret.told(made))?;
    writeln!(out, "  NATS        {}", redact_url(&config.nats.url))?;
    writeln!(out, "  ClickHouse  {}", text(&ready.clickhouse))?;
    writeln!(out, "  metrics     {}/metrics   (also /healthz, /readyz)", ready.metrics)?;
    for (what, text) in config.sinks.iter().filter_map(Instance::told) {
        writeln!(out, "  {what:<10}  {text}")?;
    }
    for (component, why) in away {
        let why = plain::line(why);
        writeln!(out, "  {component:<10}  away: {why}   (its messages wait for it, and nothing else is delayed)")?;
    }
    try_first(&mut out, data)?;
    send_records(&mut out, ready, data)?;
    for_other_programs(&mut out, ready, config, servers, data)?;
    writeln!(out, "Ctrl-C stops everything; `headrace up` goes on from there.")?;
    output::write(&out)?;
    Ok(())
}

/// The commands that send a first event and show it.
fn try_first(out: &mut Vec<u8>, data: &DataDir) -> io::Result<()> {
    let directory = data.path().display();
    writeln!(out)?;
    writeln!(out, "Send a first event from another terminal, and look at its row:")?;
    writeln!(out)?;
    writeln!(
        out,
        "  echo '{{\"action\":\"publicized\",\"repository\":{{\"full_name\":\"acme/app\",\"private\":false,\"owner\":{{\"login\":\"acme\"}}}},\"sender\":{{\"login\":\"mona\",\"type\":\"User\"}}}}' > first.json"
    )?;
    writeln!(out, "  headrace send first.json --event repository --data-dir {directory}")?;
    writeln!(out, "  headrace query 'SELECT * FROM headrace.events FORMAT Vertical' --data-dir {directory}")?;
    writeln!(out)
}

/// The command that sends a record of the operator's own.
fn send_records(out: &mut Vec<u8>, ready: &Ready, data: &DataDir) -> io::Result<()> {
    let (Some(token), Some(gateway)) = (ready.tokens.get(Ndjson::NAME), &ready.gateway) else { return Ok(()) };
    // A configured token is in no file of ours, and must not be printed.
    let file = data.join(&token_file(Ndjson::NAME));
    let is_in_file = std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == token);
    let token = if is_in_file { format!("$(cat {})", file.display()) } else { "<token>".to_owned() };
    writeln!(out, "Send a record of your own, newline-delimited JSON of whatever happened:")?;
    writeln!(out)?;
    // The list of processes would show a token among curl's arguments.
    writeln!(
        out,
        "  printf 'header = \"Authorization: Bearer %s\"' \"{token}\" | curl -K - -H 'Content-Type: application/x-ndjson' --data-binary '{{\"id\":\"first\",\"time\":\"2025-01-31T08:15:30Z\",\"kind\":\"login\",\"tenant\":\"acme\",\"actor\":\"mona\"}}' {gateway}/collect/ndjson"
    )?;
    writeln!(out)
}

/// How other programs reach the servers that `up` started.
fn for_other_programs(
    out: &mut Vec<u8>,
    ready: &Ready,
    config: &Config,
    servers: &Servers,
    data: &DataDir,
) -> io::Result<()> {
    let directory = data.path().display();
    if let Some(own) = servers.clickhouse.as_ref() {
        writeln!(out, "Other programs can use ClickHouse as the user `reader`, who cannot change anything:")?;
        writeln!(out)?;
        // The list of processes would show a password among curl's arguments.
        writeln!(
            out,
            "  printf 'user = reader:%s' \"$(cat {directory}/{CLICKHOUSE_READER_PASSWORD})\" | curl -K - '{}/?query=SELECT+count()+FROM+headrace.events'",
            own.url()
        )?;
        writeln!(out)?;
    }
    if ready.pids.contains_key("nats") {
        writeln!(
            out,
            "Subscribe to scored events as the NATS user `{}`, whose password is in a file:",
            User::Subscriber.name()
        )?;
        writeln!(out)?;
        writeln!(
            out,
            "  NATS_PASSWORD=\"$(cat {})\" nats sub 'events.scored.>' --server {} --user {}",
            data.join(&User::Subscriber.password_file()).display(),
            config.nats.url,
            User::Subscriber.name()
        )?;
        writeln!(out)?;
        writeln!(out, "{}", durability(config.local.sync_interval()))?;
    }
    Ok(())
}

/// Explains what a 2xx answer promises with the NATS that `up` started.
fn durability(sync_interval: SyncInterval) -> String {
    let lost = match sync_interval {
        SyncInterval::Always => {
            "a power cut loses nothing either: NATS syncs each message before it confirms it".to_owned()
        }
        SyncInterval::Every(time) => format!(
            "a power cut may lose the last {} s,\nbecause NATS syncs to the disk that often (`local.sync_interval_ms`; 0 syncs before each confirmation and is slower)",
            time.as_secs_f64()
        ),
    };
    format!("A crash of any process loses nothing that was answered with a 2xx; {lost}.")
}
