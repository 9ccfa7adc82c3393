//! `headrace gaps`: prints the proofs of what arrived, as a table or as JSON.

use std::time::Duration;

use anyhow::Context as _;
use headrace_ingest::github::recovery::hook_names;
use headrace_ingest::github::recovery::report::{Counts, HookReport, Report};
use headrace_runtime::state::StateStore;
use headrace_schemas::time::Timestamp;

use crate::cli::ask::Gaps;
use crate::cli::{exit, output, time};
use crate::config::Config;
use crate::installation::locate::Named;
use crate::installation::{running, servers};
use crate::nats::connections::connect_admin;

const HOUR: Duration = Duration::from_secs(3_600);
/// How far back the command reads proofs.
const WINDOW_MAX: Duration = Duration::from_secs(168 * 3_600);

pub(crate) async fn gaps(arguments: Gaps) -> anyhow::Result<()> {
    let since = since(&arguments)?;
    let located = arguments.place.locate()?;
    let mut config = servers::load(&located)?.value;
    if config.nats.url.is_empty() {
        config.nats.reach(&running_nats(servers::of_up(&located, servers::NATS)?)?);
    }
    let mut report = read(&config).await?;
    report.keep_since(since);
    keep_until(&mut report, arguments.until);
    if arguments.json {
        output::line(serde_json::to_string_pretty(&report).context("cannot write the report as JSON")?)?;
    } else {
        output::write(table(&report, arguments.all).as_bytes())?;
    }
    ensure_complete(&report)
}

/// The beginning of the window.
fn since(arguments: &Gaps) -> anyhow::Result<Timestamp> {
    let now = Timestamp::now();
    let hours = arguments.hours.map(|hours| HOUR * u32::from(hours));
    let since = arguments.since.unwrap_or_else(|| now.minus(hours.unwrap_or(WINDOW_MAX)));
    // Older proofs are not read, so a larger window must not look as if nothing were missing in it. One hour is added,
    // because the clock has gone on since the command line was read.
    if since < now.minus(WINDOW_MAX + HOUR) {
        let problem = format!("expected --since within the past seven days, found {since}; older proofs are not read");
        return Err(time::wrong(&problem).into());
    }
    time::ensure_window(since, arguments.until.unwrap_or(now))?;
    Ok(since)
}

/// Leaves out the hours that began at `until` or later.
fn keep_until(report: &mut Report, until: Option<Timestamp>) {
    let Some(until) = until else { return };
    for hook in &mut report.hooks {
        hook.hours.retain(|hour| hour.hour < until);
        hook.total = Counts::default();
        hook.hours.iter().for_each(|hour| hook.total += hour.counts);
    }
}

/// The address of the running `up`'s NATS server.
fn running_nats(data_dir: &Named) -> anyhow::Result<String> {
    let ready = running::of(data_dir).context(
        "expected `nats.url` in the configuration, or a running `headrace up`; give --config, or name its --data-dir",
    )?;
    ready.nats.context("the ready file of the running process names no NATS server")
}

async fn read(config: &Config) -> anyhow::Result<Report> {
    let broker = connect_admin(config, "headrace gaps").await?;
    let store = StateStore::open_recovery(&broker).await.context("is `headrace run` or `headrace up` set up there?")?;
    // Leave out hooks that are no longer configured.
    let wanted = config.recover.as_ref().map(hook_names).unwrap_or_default();
    Report::load(&store, &wanted).await
}

/// Fails unless every hook was checked and nothing is missing.
fn ensure_complete(report: &Report) -> anyhow::Result<()> {
    anyhow::ensure!(
        !report.hooks.is_empty(),
        "no hook has been checked; configure `[recover]` and run the role `recover`"
    );
    let missing: u64 = report.hooks.iter().map(|hook| hook.total.missing).sum();
    if missing > 0 {
        return Err(exit::missing(format!("{missing} deliveries are missing")));
    }
    let untold: Vec<&str> =
        report.hooks.iter().filter(|hook| doubt(hook, report.at).is_some()).map(|hook| hook.hook.as_str()).collect();
    anyhow::ensure!(untold.is_empty(), "it cannot be told whether deliveries of {} are missing", untold.join(", "));
    Ok(())
}

/// The reason why a hook's numbers prove nothing, if there is one.
fn doubt(hook: &HookReport, now: Timestamp) -> Option<String> {
    if let Some(problem) = &hook.problem {
        return Some(problem.clone());
    }
    match (hook.checked_at, hook.current_until) {
        (Some(at), Some(until)) if until < now => {
            Some(format!("not checked since {}; is the role `recover` running?", minute(at)))
        }
        (Some(_), Some(_)) => None,
        _ => Some("not checked yet; is the role `recover` running?".to_owned()),
    }
}

/// A time in UTC, to the minute, for people.
fn minute(at: Timestamp) -> String {
    at.to_string()[..16].replace('T', " ")
}

fn table(report: &Report, all: bool) -> String {
    let names = report.hooks.iter().map(|hook| hook.hook.chars().count());
    let width = names.max().unwrap_or_default().max("hook".len());
    let head = ["delivered", "seen", "recovered", "waiting", "missing", "refused", "too old"];
    let mut text = format!("{:width$}  {:16}", "hook", "hour (UTC)");
    head.iter().for_each(|column| text.push_str(&format!("  {column:>9}")));
    text.push('\n');
    for hook in &report.hooks {
        for hour in hook.hours.iter().filter(|hour| all || is_noteworthy(&hour.counts)) {
            text.push_str(&line(width, &hook.hook, &minute(hour.hour), &hour.counts));
        }
        text.push_str(&line(width, &hook.hook, "all hours", &hook.total));
    }
    for hook in &report.hooks {
        let checked = hook.checked_at.map(|at| format!("checked at {}", minute(at)));
        let told = doubt(hook, report.at).or(checked).unwrap_or_default();
        text.push_str(&format!("{}: {told}\n", hook.hook));
    }
    text
}

/// Whether anything happened besides deliveries that arrived.
const fn is_noteworthy(counts: &Counts) -> bool {
    counts.seen != counts.delivered
}

fn line(width: usize, hook: &str, hour: &str, counts: &Counts) -> String {
    let Counts { delivered, seen, recovered, waiting, missing, refused, too_old } = counts;
    let mut text = format!("{hook:width$}  {hour:16}");
    for count in [delivered, seen, recovered, waiting, missing, refused, too_old] {
        text.push_str(&format!("  {count:>9}"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use headrace_ingest::github::recovery::report::HourReport;

    use super::*;

    fn report(counts: Counts, problem: Option<&str>) -> Report {
        let hour = Timestamp::parse("2026-01-31T08:00:00Z").unwrap();
        let quiet = Counts { delivered: 3, seen: 3, ..Counts::default() };
        let hours = vec![HourReport { hour, counts }, HourReport { hour, counts: quiet }];
        let mut total = counts;
        total += quiet;
        let (hook, problem) = ("organization/acme/7".to_owned(), problem.map(str::to_owned));
        Report {
            at: hour,
            hooks: vec![HookReport { hook, checked_at: Some(hour), current_until: Some(hour), problem, total, hours }],
        }
    }

    #[test]
    fn the_table_shows_the_hours_that_matter_and_the_sum() {
        let counts = Counts { delivered: 10, seen: 6, recovered: 2, waiting: 1, missing: 1, refused: 1, too_old: 0 };
        let expected = "\
hook                 hour (UTC)        delivered       seen  recovered    waiting    missing    refused    too old
organization/acme/7  2026-01-31 08:00         10          6          2          1          1          1          0
organization/acme/7  all hours                13          9          2          1          1          1          0
organization/acme/7: GitHub is away
";
        assert_eq!(table(&report(counts, Some("GitHub is away")), false), expected);
        let all = table(&report(counts, None), true);
        assert_eq!(
            (all.lines().count(), all.lines().last()),
            (5, Some("organization/acme/7: checked at 2026-01-31 08:00"))
        );
    }

    #[test]
    fn hours_after_the_window_are_not_counted() {
        let counts = Counts { delivered: 10, seen: 6, missing: 4, ..Counts::default() };
        let mut report = report(counts, None);
        report.hooks[0].hours[1].hour = Timestamp::parse("2026-01-31T09:00:00Z").unwrap();
        keep_until(&mut report, Timestamp::parse("2026-01-31T09:00:00Z"));
        assert_eq!((report.hooks[0].hours.len(), report.hooks[0].total), (1, counts));
    }

    #[test]
    fn only_a_present_proof_without_a_gap_is_good() {
        let whole = Counts { delivered: 2, seen: 1, recovered: 1, ..Counts::default() };
        let told =
            |report: &Report| ensure_complete(report).map_err(|error| error.to_string()).err().unwrap_or_default();
        assert_eq!(told(&report(whole, None)), "");
        let gap = Counts { delivered: 2, seen: 1, missing: 1, ..Counts::default() };
        assert_eq!(told(&report(gap, None)), "1 deliveries are missing");
        assert!(told(&report(whole, Some("GitHub is away"))).starts_with("it cannot be told"));
        let mut old = report(whole, None);
        old.at = Timestamp::from_micros(old.at.as_micros() + 1);
        assert!(told(&old).starts_with("it cannot be told"));
        assert!(told(&Report { hooks: Vec::new(), ..old }).starts_with("no hook"));
    }
}
