//! `headrace sources`: shows the sources and how far each was read, and has one read again.

use std::collections::BTreeMap;

use anyhow::Context as _;
use headrace_ingest::collect::kept::{self, Progress, Standing};
use headrace_ingest::collect::name_of;
use headrace_ingest::sources as registry;
use headrace_runtime::state::StateStore;
use headrace_schemas::time::Timestamp;
use serde_json::{Value, json};

use crate::cli::global::Global;
use crate::cli::place::Place;
use crate::cli::sources::{Sources, SourcesAction};
use crate::cli::{exit, output, plain};
use crate::commands::target::Target;
use crate::commands::up;
use crate::config::Config;

/// The most characters of a cursor in a table. `--json` has all of it.
const CURSOR_CHARS_MAX: usize = 100;

pub(crate) async fn sources(arguments: Sources, global: Global) -> anyhow::Result<()> {
    match arguments.action {
        SourcesAction::List { place, json } => {
            let (store, config, _) = open(&place).await?;
            let rows = rows(&config, kept::progress(&store).await?)?;
            if json {
                for row in &rows {
                    output::line(row.json())?;
                }
                return Ok(());
            }
            output::write(table(&rows, Timestamp::now()).as_bytes())?;
            Ok(())
        }
        SourcesAction::Rewind { place, name, dry_run, json, yes: _ } => {
            let (store, _, target) = open(&place).await?;
            let doing = if dry_run { "nothing is changed" } else { "a source is read again from its beginning" };
            target.note(doing, global);
            let Some(Progress { cursor: Some(cursor), .. }) = kept::progress(&store).await?.remove(&name) else {
                return Err(exit::missing(format!("nothing was read of a source `{}`", plain::line(&name))));
            };
            let is_forgotten = !dry_run && kept::forget(&store, &name).await?;
            if json {
                let report = json!({
                    "source": name, "cursor": cursor, "rewound": is_forgotten, "installation": target.json(),
                });
                output::line(report)?;
            } else if is_forgotten {
                output::line(format_args!("{name} is read again from its beginning"))?;
            } else {
                output::line(format_args!("{name} was read up to {}", shortened(&cursor)))?;
            }
            Ok(())
        }
    }
}

/// Connects to the broker. Returns also the configuration, and which installation that is.
async fn open(place: &Place) -> anyhow::Result<(StateStore, Config, Target)> {
    let (broker, mut config, target) = Target::connect(place, "headrace-sources").await?;
    let store = StateStore::open_cursors(&broker).await.context("is `headrace run` or `headrace up` set up there?")?;
    if target.data_dir.is_some() {
        // The secrets that `up` makes turn sources on, and are in no configuration.
        up::stand_in_secrets(&mut config);
    }
    Ok((store, config, target))
}

/// How something comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// Others send it, to these paths.
    Sent(Vec<String>),
    /// It is asked for, as the configuration says.
    Asked,
    /// It was asked for. The configuration that was read does not say so.
    Unconfigured,
}

impl Form {
    const fn word(&self) -> &'static str {
        match self {
            Self::Sent(_) => "sent",
            Self::Asked => "asked",
            Self::Unconfigured => "not configured",
        }
    }
}

/// A line of the list.
#[derive(Debug)]
struct Row {
    source: String,
    name: String,
    form: Form,
    progress: Progress,
}

impl Row {
    fn json(&self) -> Value {
        let Self { source, name, form, progress: Progress { cursor, status } } = self;
        let paths = if let Form::Sent(paths) = form { Some(paths) } else { None };
        json!({
            "source": source,
            "name": name,
            "form": form.word(),
            "paths": paths,
            "state": status.as_ref().map(|status| status.state),
            "why": status.as_ref().and_then(|status| status.why.as_ref()),
            "read_at": status.as_ref().and_then(|status| status.read_at),
            "current_until": status.as_ref().map(|status| status.current_until),
            "cursor": cursor,
        })
    }

    fn state(&self, now: Timestamp) -> String {
        let Some(status) = &self.progress.status else {
            return if matches!(self.form, Form::Sent(_)) { "-" } else { "not read yet" }.to_owned();
        };
        // What was last told says nothing about now.
        if status.current_until < now {
            return "nobody asks it".to_owned();
        }
        let word = match status.state {
            Standing::Healthy => "healthy",
            Standing::Degraded => "degraded",
            Standing::Broken => "broken",
        };
        word.to_owned()
    }
}

/// The sources of the configuration, and what else was read.
fn rows(config: &Config, mut progress: BTreeMap<String, Progress>) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (source, paths) in registry::pushes(&config.ingest, config.for_sources()) {
        let (source, name) = (source.to_owned(), "-".to_owned());
        rows.push(Row { source, name, form: Form::Sent(paths), progress: Progress::default() });
    }
    for pull in registry::pulls(&config.ingest, config.for_sources())? {
        let progress = progress.remove(&name_of(&*pull)).unwrap_or_default();
        let (source, name) = (pull.source().to_owned(), pull.name().to_owned());
        rows.push(Row { source, name, form: Form::Asked, progress });
    }
    for (name, progress) in progress {
        let (source, name) = name.split_once('.').unwrap_or((&name, "-"));
        let (source, name) = (source.to_owned(), name.to_owned());
        rows.push(Row { source, name, form: Form::Unconfigured, progress });
    }
    rows.sort_by(|one, other| (&one.source, &one.name).cmp(&(&other.source, &other.name)));
    Ok(rows)
}

fn table(rows: &[Row], now: Timestamp) -> String {
    let head = ["source", "name", "form", "state", "last complete read", "cursor"].map(str::to_owned);
    let line = |row: &Row| {
        let read_at = row.progress.status.as_ref().and_then(|status| status.read_at);
        let read_at = read_at.map_or_else(|| "-".to_owned(), |at| at.to_string()[..19].replace('T', " "));
        let cursor = row.progress.cursor.as_ref().map_or_else(|| "-".to_owned(), shortened);
        [row.source.clone(), row.name.clone(), row.form.word().to_owned(), row.state(now), read_at, cursor]
    };
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(line)).collect();
    let widths: Vec<usize> =
        (0..6).map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", plain::line(cell)));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    for row in rows {
        let why = row.progress.status.as_ref().and_then(|status| status.why.as_ref());
        if let Some(why) = why {
            text.push_str(&format!("{}.{}: {}\n", row.source, row.name, plain::line(why)));
        }
    }
    text
}

/// A cursor in one line that fits on a terminal.
fn shortened(cursor: &Value) -> String {
    let text = cursor.to_string();
    match text.char_indices().nth(CURSOR_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use headrace_ingest::collect::kept::Status;

    use super::*;

    #[test]
    fn the_table_shows_how_each_source_is() {
        let now = Timestamp::parse("2026-01-31T08:00:00Z").unwrap();
        let later = Timestamp::parse("2026-01-31T08:05:00Z").unwrap();
        let status = |state, current_until| Status {
            state,
            why: (state == Standing::Broken).then(|| "no such folder".to_owned()),
            read_at: Some(now),
            current_until,
        };
        let row = |name: &str, form: Form, cursor: Option<Value>, status: Option<Status>| Row {
            source: "ndjson".to_owned(),
            name: name.to_owned(),
            form,
            progress: Progress { cursor, status },
        };
        let long = json!("x".repeat(200));
        let rows = [
            row("-", Form::Sent(vec!["/collect/ndjson".to_owned()]), None, None),
            row("folder", Form::Asked, Some(json!({ "at": 1 })), Some(status(Standing::Broken, later))),
            row("new", Form::Asked, None, None),
            row(
                "old",
                Form::Unconfigured,
                Some(long),
                Some(status(Standing::Healthy, now.minus(std::time::Duration::from_secs(1)))),
            ),
        ];
        let expected = format!(
            "\
source  name    form            state           last complete read   cursor
ndjson  -       sent            -               -                    -
ndjson  folder  asked           broken          2026-01-31 08:00:00  {{\"at\":1}}
ndjson  new     asked           not read yet    -                    -
ndjson  old     not configured  nobody asks it  2026-01-31 08:00:00  \"{}…
ndjson.folder: no such folder
",
            "x".repeat(CURSOR_CHARS_MAX - 1)
        );
        assert_eq!(table(&rows, now), expected);
    }
}
