//! `headrace dead`: shows what was given up, sends it through again, removes it.
//!
//! It reads DEAD page by page and prints as it reads, so memory is bounded however much DEAD holds.
//! [`headrace_runtime::settle::dead_letters`] does everything that happens to a dead letter.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Context as _;
use bytes::Bytes;
use clap::error::ErrorKind;
use headrace_runtime::settle::dead_letters::{DeadLetter, DeadLetters, Filter, Reader, Redriven, SentMessages};
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_schemas::{codec, header};
use serde_json::{Map, Value, json};

use crate::cli::dead::{Dead, DeadAction, Selection};
use crate::cli::global::Global;
use crate::cli::output::{self, Listener, Unwritable};
use crate::cli::place::Place;
use crate::cli::{self, exit, plain, time};
use crate::commands::target::Target;

/// How many kinds of dead letters are counted separately. There are a few dozen, unless somebody else writes to DEAD.
const COUNTS_MAX: usize = 1_000;
/// The value of a header is not shown if its name contains one of these.
const HIDDEN: [&str; 6] = ["signature", "authorization", "token", "secret", "password", "cookie"];

pub(crate) async fn dead(arguments: Dead, global: Global) -> anyhow::Result<()> {
    match arguments.action {
        DeadAction::List { place, selection, counts: true, json } => {
            ensure_window(&selection)?;
            counts(&open(&place).await?.0, &selection, json).await
        }
        DeadAction::List { place, selection, counts: false, json } => {
            ensure_window(&selection)?;
            list(&open(&place).await?.0, &selection, json).await.map(|_| ())
        }
        DeadAction::Show { place, sequence, payload, json } => {
            let (dead_letters, _) = open(&place).await?;
            let found = dead_letters.get(sequence).await?;
            let (dead_letter, own) = found.ok_or_else(|| no_dead_letter(sequence))?;
            let body = if payload { Some(dead_letters.body(&dead_letter, own).await?) } else { None };
            if json { show_json(&dead_letter, body) } else { show(&dead_letter, body) }
        }
        DeadAction::Redrive { place, selection, dry_run: true, json, .. }
        | DeadAction::Drop { place, selection, dry_run: true, json, .. } => {
            ensure_window(&selection)?;
            let (dead_letters, target) = open(&place).await?;
            target.note("nothing is changed", global);
            let listed = list(&dead_letters, &selection, json).await;
            listed.and_then(|listed| ensure_found(&selection, listed))
        }
        DeadAction::Redrive { place, selection, dry_run: false, all, json } => {
            ensure_meant(&selection, all, "redrive")?;
            let (dead_letters, target) = open(&place).await?;
            target.note("sending dead letters through again", global);
            redrive(&dead_letters, &target, &selection, json).await
        }
        DeadAction::Drop { place, selection, dry_run: false, all, json, .. } => {
            ensure_meant(&selection, all, "drop")?;
            let (dead_letters, target) = open(&place).await?;
            target.note("removing dead letters", global);
            remove(&dead_letters, &target, &selection, json).await
        }
    }
}

/// Refuses the action `name` without filters and without `--all`: a forgotten filter would mean all dead letters.
fn ensure_meant(selection: &Selection, all: bool, name: &str) -> anyhow::Result<()> {
    if !all && !selection.filters() {
        let problem = "expected which dead letters, such as --component or --number, or --all for every one; --dry-run shows \
                       which they are";
        return Err(cli::wrong(&["dead", name], ErrorKind::MissingRequiredArgument, problem).into());
    }
    ensure_window(selection)
}

fn ensure_window(selection: &Selection) -> anyhow::Result<()> {
    if let (Some(since), Some(until)) = (selection.since, selection.until) {
        time::ensure_window(since, until)?;
    }
    Ok(())
}

/// Fails if `--number` names a dead letter that was not found.
fn ensure_found(selection: &Selection, found: u64) -> anyhow::Result<()> {
    match selection.number {
        Some(number) if found == 0 => Err(no_dead_letter(number)),
        _ => Ok(()),
    }
}

fn no_dead_letter(number: u64) -> anyhow::Error {
    exit::missing(format!("no dead letter {number}, or none that the filters let through"))
}

/// Connects to the server of the configuration, or of the `up` that runs on the data directory. Returns also which
/// installation that is.
async fn open(place: &Place) -> anyhow::Result<(DeadLetters, Target)> {
    let (broker, _, target) = Target::connect(place, "headrace-dead").await?;
    Ok((DeadLetters::open(&broker).await?, target))
}

/// Reads the dead letters of a selection one by one.
struct Selected {
    reader: Reader,
    page: std::vec::IntoIter<DeadLetter>,
    left: u64,
}

impl Selected {
    async fn of(dead_letters: &DeadLetters, selection: &Selection) -> anyhow::Result<Self> {
        let filter = Filter {
            sequence: selection.number,
            component: selection.component.clone(),
            tenant: selection.tenant.clone(),
            reason: selection.reason.clone(),
            event_id: selection.event_id.clone(),
            since: selection.since,
            until: selection.until,
        };
        let reader = dead_letters.read(filter).await?;
        let left = selection.limit.unwrap_or(u64::MAX);
        Ok(Self { reader, page: Vec::new().into_iter(), left })
    }

    async fn next(&mut self) -> anyhow::Result<Option<DeadLetter>> {
        while self.left > 0 {
            if let Some(dead_letter) = self.page.next() {
                self.left -= 1;
                return Ok(Some(dead_letter));
            }
            match self.reader.page().await? {
                Some(page) => self.page = page.into_iter(),
                None => break,
            }
        }
        Ok(None)
    }
}

/// Prints the dead letters, and returns how many there are.
async fn list(dead_letters: &DeadLetters, selection: &Selection, json: bool) -> anyhow::Result<u64> {
    let mut selected = Selected::of(dead_letters, selection).await?;
    let mut listed = 0_u64;
    while let Some(dead_letter) = selected.next().await? {
        listed += 1;
        if listed == 1 && !json {
            output::line(format_args!(
                "{:>8}  {:27}  {:16}  {:14}  {:>5}  WHAT",
                "NUMBER", "GIVEN UP", "COMPONENT", "REASON", "TRIED"
            ))?;
        }
        let reader = if json { output::line(Value::Object(summary(&dead_letter))) } else { row(&dead_letter) }?;
        if reader == Listener::Gone {
            break;
        }
    }
    if listed == 0 && !json {
        output::line("no dead letters")?;
    }
    selected.reader.close().await;
    Ok(listed)
}

/// Prints a line of the list.
fn row(dead_letter: &DeadLetter) -> Result<Listener, Unwritable> {
    let text = |name: &str| plain::line(dead_letter.header(name));
    output::line(format_args!(
        "{:>8}  {}  {:16}  {:14}  {:>5}  {} {}: {}",
        dead_letter.sequence,
        dead_letter.died_at,
        text(header::DEAD_COMPONENT),
        text(header::DEAD_REASON),
        text(header::DEAD_ATTEMPTS),
        dead_letter.tenant,
        text(header::ID),
        text(header::DEAD_DETAIL),
    ))
}

async fn counts(dead_letters: &DeadLetters, selection: &Selection, json: bool) -> anyhow::Result<()> {
    let mut counts: BTreeMap<[String; 2], u64> = BTreeMap::new();
    let mut selected = Selected::of(dead_letters, selection).await?;
    while let Some(dead_letter) = selected.next().await? {
        let mut key = [header::DEAD_COMPONENT, header::DEAD_REASON].map(|name| dead_letter.header(name).to_owned());
        if counts.len() >= COUNTS_MAX && !counts.contains_key(&key) {
            key = ["(others)".to_owned(), "(others)".to_owned()];
        }
        *counts.entry(key).or_default() += 1;
    }
    selected.reader.close().await;
    let mut out = Vec::new();
    for ([component, reason], count) in &counts {
        if json {
            writeln!(out, "{}", json!({ "component": component, "reason": reason, "count": count }))?;
        } else {
            writeln!(out, "{count:>8}  {:16}  {}", plain::line(component), plain::line(reason))?;
        }
    }
    if !json {
        writeln!(out, "{:>8}  in all", counts.values().sum::<u64>())?;
    }
    output::write(&out)?;
    Ok(())
}

async fn redrive(dead_letters: &DeadLetters, target: &Target, selection: &Selection, json: bool) -> anyhow::Result<()> {
    // Opened before anything is sent, so that what fails again is not taken for what the message was before.
    let mut copies = if selection.may_leave_copies() { Some(copies(dead_letters, selection).await?) } else { None };
    let mut selected = Selected::of(dead_letters, selection).await?;
    let mut messages = SentMessages::default();
    let (mut sent, mut merged, mut kept) = (0_u64, 0_u64, 0_u64);
    let so_far = |sent: u64| format!("after {sent} were sent through again");
    while let Some(dead_letter) = selected.next().await.with_context(|| so_far(sent))? {
        match dead_letters.redrive(dead_letter.sequence, &mut messages).await.with_context(|| so_far(sent))? {
            Redriven::Sent => sent += 1,
            Redriven::Covered => merged += 1,
            Redriven::Gone => {}
            Redriven::Kept(problem) => {
                kept += 1;
                output::note(format_args!("{} is kept: {}", dead_letter.sequence, plain::line(&problem)));
            }
        }
    }
    selected.reader.close().await;
    if let Some(copies) = &mut copies
        && sent > 0
    {
        merged += merge(dead_letters, copies, &messages).await.with_context(|| so_far(sent))?;
    }
    if let Some(copies) = copies {
        copies.close().await;
    }
    let done = json!({ "sent": sent, "merged": merged, "kept": kept, "installation": target.json() });
    let more = if merged > 0 { format!(", {merged} more were of the same messages") } else { String::new() };
    tell(&done, json, &format!("{sent} sent through again{more}, {kept} kept"))?;
    if kept > 0 {
        return Err(exit::missing(format!("{kept} dead letters cannot be sent through again")));
    }
    ensure_found(selection, sent)
}

/// A reader of all dead letters that may be of the same messages as those of the selection.
async fn copies(dead_letters: &DeadLetters, selection: &Selection) -> anyhow::Result<Reader> {
    let Selection { tenant, event_id, .. } = selection;
    let filter = Filter { tenant: tenant.clone(), event_id: event_id.clone(), ..Filter::default() };
    dead_letters.read(filter).await
}

/// Removes the dead letters among `copies` whose messages were sent: every component sees those. Returns how many there
/// were. Otherwise a component that refuses a message again would have one more dead letter of it after each redrive.
async fn merge(dead_letters: &DeadLetters, copies: &mut Reader, sent: &SentMessages) -> anyhow::Result<u64> {
    let mut merged = 0;
    while let Some(page) = copies.page().await? {
        for dead_letter in page {
            merged += u64::from(dead_letters.merge(&dead_letter, sent).await?);
        }
    }
    Ok(merged)
}

async fn remove(dead_letters: &DeadLetters, target: &Target, selection: &Selection, json: bool) -> anyhow::Result<()> {
    let mut selected = Selected::of(dead_letters, selection).await?;
    let mut removed = 0_u64;
    while let Some(dead_letter) = selected.next().await? {
        removed += u64::from(dead_letters.remove(dead_letter.sequence).await?);
    }
    selected.reader.close().await;
    let done = json!({ "removed": removed, "installation": target.json() });
    tell(&done, json, &format!("{removed} removed"))?;
    ensure_found(selection, removed)
}

/// Prints what was done, for a program or for a person.
fn tell(done: &Value, json: bool, text: &str) -> Result<Listener, Unwritable> {
    if json { output::line(done) } else { output::line(text) }
}

/// The fields that a line of `list` shows.
fn summary(dead_letter: &DeadLetter) -> Map<String, Value> {
    let text = |name: &str| Value::from(dead_letter.header(name));
    let number = |name: &str| Value::from(dead_letter.header(name).parse::<u64>().ok());
    let pairs = [
        ("number", Value::from(dead_letter.sequence)),
        ("died_at", dead_letter.died_at.to_string().into()),
        ("component", text(header::DEAD_COMPONENT)),
        ("tenant", dead_letter.tenant.as_str().into()),
        ("reason", text(header::DEAD_REASON)),
        ("detail", text(header::DEAD_DETAIL)),
        ("attempts", number(header::DEAD_ATTEMPTS)),
        ("redrives", dead_letter.redrives().into()),
        ("event_id", text(header::ID)),
        ("subject", text(header::DEAD_SUBJECT)),
        ("origin", text(header::DEAD_ORIGIN)),
        ("payload_bytes", dead_letter.payload_bytes.into()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Names and values of the headers, sorted, without the broker's own and without secrets.
fn headers(dead_letter: &DeadLetter) -> BTreeMap<String, String> {
    let mut shown = BTreeMap::new();
    for (name, values) in dead_letter.headers.iter() {
        let name = name.to_string();
        let hidden = HIDDEN.iter().any(|part| name.to_ascii_lowercase().contains(part));
        let value = if hidden {
            "(not shown)".to_owned()
        } else {
            values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", ")
        };
        if !name.starts_with("Nats-") {
            shown.insert(name, value);
        }
    }
    shown
}

fn show(dead_letter: &DeadLetter, body: Option<Bytes>) -> anyhow::Result<()> {
    let mut out = Vec::new();
    writeln!(
        out,
        "number: {}\ngiven up: {}\npayload: {} bytes",
        dead_letter.sequence, dead_letter.died_at, dead_letter.payload_bytes
    )?;
    for (name, value) in headers(dead_letter) {
        writeln!(out, "{}: {}", plain::line(&name), plain::line(&value))?;
    }
    if let Some(body) = body {
        writeln!(out, "\n{}", plain::lines(&readable(&body)?))?;
    }
    output::write(&out)?;
    Ok(())
}

fn show_json(dead_letter: &DeadLetter, body: Option<Bytes>) -> anyhow::Result<()> {
    let mut shown = summary(dead_letter);
    shown.insert("headers".to_owned(), serde_json::to_value(headers(dead_letter))?);
    match body.as_ref().map(|body| std::str::from_utf8(body)) {
        Some(Ok(text)) => drop(shown.insert("payload".to_owned(), text.into())),
        Some(Err(_)) => drop(shown.insert("payload_hex".to_owned(), hex::encode(body.unwrap_or_default()).into())),
        None => {}
    }
    output::line(Value::Object(shown))?;
    Ok(())
}

/// A body as text: Avro records as JSON, everything else as it is.
fn readable(body: &[u8]) -> anyhow::Result<String> {
    if let Ok(event) = codec::decode::<Event>(body) {
        return Ok(serde_json::to_string_pretty(&event)?);
    }
    if let Ok(alert) = codec::decode::<Alert>(body) {
        return Ok(serde_json::to_string_pretty(&alert)?);
    }
    Ok(String::from_utf8_lossy(body).into_owned())
}
