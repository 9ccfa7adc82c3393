//! Lines into records, for both forms of the source. It decides what a line must be, and never changes one.
//!
//! A line is one JSON object. Four of its fields are read, and all else is skipped. If a key occurs twice, the first one
//! counts, as in normalize.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{header, json};
use sonic_rs::{JsonType, JsonValueTrait as _, LazyValue, ObjectJsonIter};

use super::SOURCE;
use super::config::Config;
use crate::lines::{Records, Unfit};
use crate::source::{Common, Record};
use crate::tenant::TenantMap;

/// The longest id and the longest tenant's name, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// A longer kind is cut to as many bytes.
const KIND_BYTES_MAX: usize = 128;
/// The kind of a record that names none.
const KIND: &str = "record";
/// The kind of a record that stands for a line that can never be read.
pub const UNREADABLE: &str = "unreadable";
/// The longest reason kept with an unreadable line, in bytes.
const REASON_BYTES_MAX: usize = 500;
/// The last moment that nanoseconds in 64 bits can tell, in microseconds: in April 2262.
const TIME_MICROS_MAX: i64 = i64::MAX / 1_000;

/// A line that is read can wait until its time is no longer ahead. One that is further ahead than this is never taken: a
/// clock that is so wrong may be wrong by years.
const AWAITED_MAX: Duration = Duration::from_secs(600);

/// Makes records of lines, as configured.
#[derive(Clone, Debug)]
pub struct Split {
    id: Field,
    time: Field,
    kind: Field,
    tenant: Field,
    default_tenant: Option<String>,
    tenants: TenantMap,
    /// How far a record's time may be ahead of the clock that receives it: a quarter of the broker's duplicate window. What
    /// comes again at its time must not be older than the broker remembers ([`headrace_schemas::id::may_repeat`]).
    ahead_max: Duration,
}

/// Why a line makes no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct BadLine {
    /// The stable code.
    pub code: &'static str,
    expected: String,
    found: String,
}

impl BadLine {
    fn new(code: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { code, expected: expected.into(), found: found.into() }
    }
}

/// Where a field is: keys to follow, one after the other.
#[derive(Clone, Debug)]
struct Field {
    /// As it is configured, for messages.
    name: String,
    keys: Vec<String>,
}

impl Field {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), keys: name.split('.').map(str::to_owned).collect() }
    }
}

/// The lines of `text`, each with its number, from 1. A line ends with LF or CRLF, which are not part of it. Blank lines
/// are left out.
pub fn lines(text: &Bytes) -> impl Iterator<Item = (usize, Bytes)> {
    let mut begin = 0;
    let numbered = (1..).map_while(move |number| {
        let rest = text.get(begin..).filter(|rest| !rest.is_empty())?;
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = text.slice(begin..begin + length);
        begin += length + 1;
        Some((number, without_cr(line)))
    });
    numbered.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
}

fn without_cr(line: Bytes) -> Bytes {
    if line.last() == Some(&b'\r') { line.slice(..line.len() - 1) } else { line }
}

impl Split {
    /// As configured.
    #[must_use]
    pub fn new(config: &Config, common: Common<'_>) -> Self {
        Self {
            id: Field::new(&config.id),
            time: Field::new(&config.time),
            kind: Field::new(&config.kind),
            tenant: Field::new(&config.tenant),
            default_tenant: config.default_tenant.clone(),
            tenants: TenantMap::new(common.tenants),
            ahead_max: common.duplicate_window / 4,
        }
    }

    /// The record of `line`, which has no line end.
    ///
    /// # Errors
    /// What is wrong with the line. It will be wrong whenever it is read.
    pub fn record(&self, line: Bytes) -> Result<Record, BadLine> {
        let [id, time, kind, tenant] = find([&self.id, &self.time, &self.kind, &self.tenant], &line)?;
        let own = own_id(&self.id, id.as_ref())?;
        let event_time = moment(&self.time, time.as_ref())?;
        let kind = kind_of(&self.kind, kind.as_ref())?;
        let tenant = name_of(&self.tenant, tenant.as_ref())?;
        Ok(Record {
            id: EventId::of_source(SOURCE, &own),
            event_time: Some(event_time),
            kind,
            tenant: self.tenants.tenant(tenant.as_deref().or(self.default_tenant.as_deref())),
            headers: Vec::new(),
            body: line,
        })
    }

    /// The record of a line that can never be read, for `reason`. Normalize puts it into DEAD with that reason. `own`
    /// names the line among all that the source ever gives, such as by its file and its place there.
    #[must_use]
    pub fn unreadable(&self, own: &str, line: Bytes, reason: &str) -> Record {
        Record {
            id: EventId::of_source(SOURCE, &one_line(own, NAME_BYTES_MAX)),
            event_time: None,
            kind: UNREADABLE.to_owned(),
            tenant: self.tenants.tenant(self.default_tenant.as_deref()),
            headers: vec![(header::UNREADABLE.to_owned(), one_line(reason, REASON_BYTES_MAX))],
            body: line,
        }
    }

    /// Checks that the time of `record` is not ahead of its reception, at `now`. Another time of the same record makes
    /// another answer, never another record.
    ///
    /// # Errors
    /// By how much it is ahead.
    pub fn check_ahead(&self, record: &Record, now: Timestamp) -> Result<(), BadLine> {
        let ahead = ahead(record, now);
        if ahead <= self.ahead_max {
            return Ok(());
        }
        let expected = format!("a time at most {} s ahead of the clock here", self.ahead_max.as_secs_f64());
        let found = format!("one that is {} s ahead; is the sender's clock right?", ahead.as_secs_f64());
        Err(BadLine::new("time_ahead", expected, found))
    }
}

fn ahead(record: &Record, now: Timestamp) -> Duration {
    record.event_time.map(|at| at.since(now)).unwrap_or_default()
}

impl Records for Split {
    fn record(&self, line: Bytes) -> Result<Record, Unfit> {
        let never = |bad: BadLine| Unfit::Never(bad.to_string());
        let record = Self::record(self, line).map_err(never)?;
        let now = Timestamp::now();
        let ahead = ahead(&record, now);
        // With a long window, a time may be allowed that is further ahead than what is waited for.
        if ahead > self.ahead_max && ahead <= AWAITED_MAX {
            return Err(Unfit::Early(ahead - self.ahead_max));
        }
        self.check_ahead(&record, now).map_err(never)?;
        Ok(record)
    }

    fn unreadable(&self, own: &str, head: Bytes, reason: &str) -> Record {
        Self::unreadable(self, own, head, reason)
    }
}

/// The values of `fields` in `line`, which is one JSON object and nothing else. `null` counts as none.
fn find<'l, const N: usize>(fields: [&Field; N], line: &'l [u8]) -> Result<[Option<LazyValue<'l>>; N], BadLine> {
    let malformed = |found: String| BadLine::new("line_malformed", "one JSON object in the line", found);
    let text = std::str::from_utf8(line)
        .map_err(|error| malformed(format!("bytes that are not UTF-8 after byte {}", error.valid_up_to())))?;
    if !json::is_shallow(line) {
        return Err(malformed(format!("one that is nested more than {} levels deep", json::DEPTH_MAX)));
    }
    let whole: LazyValue<'l> = sonic_rs::from_str(text)
        .map_err(|error| malformed(format!("what is not JSON at byte {}", error.offset().min(line.len()))))?;
    if whole.get_type() != JsonType::Object {
        return Err(malformed(type_of(&whole)));
    }
    let mut found = [const { None }; N];
    for entry in sonic_rs::to_object_iter(text) {
        let (key, value) = entry.map_err(|_| malformed("what is not JSON".to_owned()))?;
        for (field, found) in fields.iter().zip(&mut found) {
            if found.is_none() && field.keys[0] == key {
                *found = Some(below(value.clone(), &field.keys[1..]));
            }
        }
    }
    Ok(found.map(|value| value.flatten().filter(|value| value.get_type() != JsonType::Null)))
}

/// The value at `keys` below `value`.
fn below<'l>(value: LazyValue<'l>, keys: &[String]) -> Option<LazyValue<'l>> {
    keys.iter().try_fold(value, |value, wanted| {
        let first = entries(&value)?.map_while(Result::ok).find(|(key, _)| key == wanted);
        first.map(|(_, value)| value)
    })
}

fn entries<'l>(value: &LazyValue<'l>) -> Option<ObjectJsonIter<'l>> {
    match value.as_raw_cow() {
        Cow::Borrowed(json) if value.get_type() == JsonType::Object => Some(sonic_rs::to_object_iter(json)),
        // A value of a borrowed line is borrowed, so no object comes here.
        _ => None,
    }
}

fn own_id(field: &Field, value: Option<&LazyValue<'_>>) -> Result<String, BadLine> {
    let expected = || {
        format!(
            "text of 1 to {NAME_BYTES_MAX} bytes, without control characters or spaces at its ends, or a whole number \
             in the field {}",
            told(field)
        )
    };
    let malformed = |found: String| BadLine::new("id_malformed", expected(), found);
    let value = value.ok_or_else(|| BadLine::new("id_missing", format!("the field {}", told(field)), "none"))?;
    match value.get_type() {
        JsonType::String => {
            let text = value.as_str().ok_or_else(|| malformed(UNDECODABLE.to_owned()))?;
            check_name(text).map_err(malformed)?;
            Ok(text.to_owned())
        }
        JsonType::Number => {
            // As it stands there: JSON spells a whole number in one way only, but for `-0`.
            let digits = value.as_raw_str();
            if digits.len() <= NAME_BYTES_MAX && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
                Ok(digits.to_owned())
            } else {
                Err(malformed("another number".to_owned()))
            }
        }
        _ => Err(malformed(type_of(value))),
    }
}

/// The text of a name as it came. It stands in a header of the broker, which cuts spaces at the ends and splits lines.
fn check_name(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        Err(format!("a text of {} bytes", text.len()))
    } else if text.chars().any(char::is_control) {
        Err("a text with a control character".to_owned())
    } else if text.trim() != text {
        Err("a text with spaces at its ends".to_owned())
    } else {
        Ok(())
    }
}

const UNDECODABLE: &str = "a text with a broken escape";

fn moment(field: &Field, value: Option<&LazyValue<'_>>) -> Result<Timestamp, BadLine> {
    let expected = || {
        format!(
            "a time from 1970 to 2262 in the field {}: RFC 3339 text with an offset, or a number of seconds, milliseconds, \
             microseconds or nanoseconds since 1970",
            told(field)
        )
    };
    let malformed = |found: String| BadLine::new("time_malformed", expected(), found);
    let value = value.ok_or_else(|| BadLine::new("time_missing", format!("the field {}", told(field)), "none"))?;
    let micros = match value.get_type() {
        JsonType::String => value.as_str().and_then(Timestamp::parse).map(Timestamp::as_micros),
        JsonType::Number => micros(value.as_raw_str()),
        _ => return Err(malformed(type_of(value))),
    };
    let found = if value.get_type() == JsonType::String { "another text" } else { "another number" };
    let micros = micros.filter(|micros| (0..=TIME_MICROS_MAX).contains(micros));
    micros.map(Timestamp::from_micros).ok_or_else(|| malformed(found.to_owned()))
}

/// The microseconds that a number means. Whole numbers of each unit up to the year 2262 have a range of their own, but for
/// the first months of 1970; other numbers are seconds.
fn micros(number: &str) -> Option<i64> {
    match number.parse::<i64>() {
        Ok(whole) => match whole {
            ..0 => None,
            0..10_000_000_000 => whole.checked_mul(1_000_000),
            10_000_000_000..10_000_000_000_000 => whole.checked_mul(1_000),
            10_000_000_000_000..10_000_000_000_000_000 => Some(whole),
            _ => Some(whole / 1_000),
        },
        Err(_) if number.bytes().all(|byte| byte.is_ascii_digit()) => None,
        Err(_) => {
            let micros = (number.parse::<f64>().ok()? * 1e6).round();
            // The range first: a cast would turn what is beyond it into the nearest number.
            (0.0..=TIME_MICROS_MAX as f64).contains(&micros).then_some(micros as i64)
        }
    }
}

fn kind_of(field: &Field, value: Option<&LazyValue<'_>>) -> Result<String, BadLine> {
    let text =
        scalar(value, |found| BadLine::new("kind_malformed", format!("text in the field {}", told(field)), found))?;
    let kind = text.map(|text| one_line(&text, KIND_BYTES_MAX)).unwrap_or_default();
    Ok(if kind.is_empty() { KIND.to_owned() } else { kind })
}

/// Whose a record is, as it says itself. Anything but a name is refused: to take it for none would give the record to
/// another tenant.
fn name_of(field: &Field, value: Option<&LazyValue<'_>>) -> Result<Option<String>, BadLine> {
    let malformed = |found: String| {
        let expected = format!(
            "text of 1 to {NAME_BYTES_MAX} bytes, without control characters or spaces at its ends, in the field {}",
            told(field)
        );
        BadLine::new("tenant_malformed", expected, found)
    };
    let Some(name) = scalar(value, malformed)? else { return Ok(None) };
    check_name(&name).map_err(malformed)?;
    Ok(Some(name))
}

/// A text as it is decoded, a number or truth value as it stands there.
fn scalar(value: Option<&LazyValue<'_>>, malformed: impl Fn(String) -> BadLine) -> Result<Option<String>, BadLine> {
    let Some(value) = value else { return Ok(None) };
    match value.get_type() {
        JsonType::String => {
            value.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| malformed(UNDECODABLE.to_owned()))
        }
        JsonType::Number | JsonType::Boolean => Ok(Some(value.as_raw_str().to_owned())),
        JsonType::Null | JsonType::Object | JsonType::Array => Err(malformed(type_of(value))),
    }
}

/// A field's name in a message. It comes from the configuration.
fn told(field: &Field) -> String {
    format!("`{}`", field.name.escape_debug())
}

fn type_of(value: &LazyValue<'_>) -> String {
    let words = match value.get_type() {
        JsonType::String => "text",
        JsonType::Number => "a number",
        JsonType::Boolean => "a truth value",
        JsonType::Null => "null",
        JsonType::Object => "an object",
        JsonType::Array => "an array",
    };
    words.to_owned()
}

/// `text` as it may stand in a header of the broker: without control characters and spaces at its ends, and cut to `max`
/// bytes.
fn one_line(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    for char in text.trim().chars() {
        let char = if char.is_control() { '\u{fffd}' } else { char };
        if line.len() + char.len_utf8() > max {
            break;
        }
        line.push(char);
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests;
