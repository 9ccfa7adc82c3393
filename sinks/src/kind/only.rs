//! The setting `only`: an expression over the fields of an event or alert, for what its subject does not tell.
//!
//! It costs about as much as writing the event as JSON, so subjects are the better choice where they will do.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use headrace_runtime::broker::Stream;
use headrace_schemas::codec::all_schemas;
use minijinja::{Environment, ErrorKind, Expression, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

/// The language. A field of an absent part counts as absent: `actor.login` of an event without an actor.
static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(language);

fn language<'t>() -> Environment<'t> {
    let mut language = Environment::new();
    language.set_undefined_behavior(UndefinedBehavior::Chainable);
    language
}

/// A checked expression.
pub(super) struct Only {
    expression: Expression<'static, 'static>,
    has_failed: AtomicBool,
}

impl Only {
    /// Reads an expression over what `streams` hold.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(text: &str, streams: impl IntoIterator<Item = Stream>) -> Result<(), String> {
        // The parser panics where this ends an expression.
        if text.contains("}}") {
            return Err("expected an expression without `}}`, found it".to_owned());
        }
        let language = language();
        let expression = language
            .compile_expression(text)
            .map_err(|error| format!("expected an expression such as `kind == \"repository\"`: {}", told(&error)))?;
        for stream in streams {
            let fields = Fields::of(stream);
            if fields.known.is_empty() {
                return Err(format!(
                    "expected none, because this kind also reads {}, which is not parsed",
                    stream.name()
                ));
            }
            if let Some(unknown) = expression.undeclared_variables(true).iter().find_map(|name| fields.unknown(name)) {
                return Err(format!("expected fields of {}, found {}", stream.name(), fields.told(&unknown)));
            }
        }
        match expression.eval(()) {
            Err(error) if is_unknown(error.kind()) => Err(told(&error)),
            // It may need values to make sense.
            _ => Ok(()),
        }
    }

    /// The expression `text`, which was checked, for as long as the process lives.
    pub(super) fn of(text: &str) -> anyhow::Result<Self> {
        // Leaked once for each sink of the process, which needs it to its end.
        let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
        let expression = LANGUAGE.compile_expression(text).map_err(|error| anyhow::anyhow!(told(&error)))?;
        Ok(Self { expression, has_failed: AtomicBool::new(false) })
    }

    /// Whether it holds for `item`. An item for which it cannot be computed is taken: better one too many than a lost
    /// one.
    pub(super) fn holds(&self, item: &impl Serialize) -> bool {
        match self.expression.eval(item) {
            Ok(value) => value.is_true(),
            Err(error) => {
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    let error = told(&error);
                    tracing::warn!(
                        error,
                        "the expression `only` cannot be computed for some events; they are delivered"
                    );
                }
                true
            }
        }
    }
}

const fn is_unknown(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction)
}

fn told(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

/// The fields of a record, with those of its parts: `repository`, `repository.full_name`.
#[derive(Default)]
struct Fields {
    known: BTreeSet<String>,
    /// Those that may hold anything, such as maps.
    open: BTreeSet<String>,
}

impl Fields {
    /// The fields of what `stream` holds.
    fn of(stream: Stream) -> Self {
        let record = match stream {
            Stream::Events | Stream::CatchUp => "Event",
            Stream::Alerts => "Alert",
            Stream::Raw | Stream::Dead => return Self::default(),
        };
        let mut fields = Self::default();
        for (_, _, avsc) in all_schemas() {
            let schema: Value = serde_json::from_str(avsc).unwrap_or_default();
            if schema["name"] == record {
                fields.add(&schema, "");
            }
        }
        fields
    }

    fn add(&mut self, record: &Value, prefix: &str) {
        for field in record["fields"].as_array().into_iter().flatten() {
            let Some(name) = field["name"].as_str() else { continue };
            let path = format!("{prefix}{name}");
            // An optional part is a union with null.
            let union = field["type"].as_array().map_or(std::slice::from_ref(&field["type"]), Vec::as_slice);
            for part in union.iter().filter(|part| part.is_object()) {
                match part["type"].as_str() {
                    Some("record") => self.add(part, &format!("{path}.")),
                    Some("map" | "array") => _ = self.open.insert(path.clone()),
                    _ => {}
                }
            }
            self.known.insert(path);
        }
    }

    /// The first part of `path` that is no field.
    fn unknown(&self, path: &str) -> Option<String> {
        let ends = path.match_indices('.').map(|(end, _)| end).chain([path.len()]);
        for part in ends.map(|end| &path[..end]) {
            if self.open.contains(part) {
                return None;
            }
            if !self.known.contains(part) {
                return Some(part.to_owned());
            }
        }
        None
    }

    /// What is wrong with `path`, which is unknown, and what is known in its place.
    fn told(&self, path: &str) -> String {
        let beside = self.beside(path);
        match path.rsplit_once('.') {
            Some((parent, _)) if beside.is_empty() => {
                let known = self.beside(parent).join(", ");
                format!("`{path}`, and `{parent}` is no record; known are {known}")
            }
            _ => format!("`{path}`; known are {}", beside.join(", ")),
        }
    }

    /// The fields of the record in which `path` is missing.
    fn beside(&self, path: &str) -> Vec<&str> {
        let parent = |path: &str| path.rfind('.').map(|end| path[..end].to_owned());
        let own = parent(path);
        self.known.iter().filter(|known| parent(known) == own).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use headrace_schemas::event::Event;
    use headrace_tests::harness::samples::Sample as _;

    use super::*;

    #[test]
    fn an_expression_is_checked_before_anything_starts() {
        let check = |text: &str| Only::check(text, [Stream::Events]);
        for good in [
            "kind == 'push'",
            "actor.login in ['mona']",
            "attributes.ref == 'a'",
            "repository.visibility != 'private' and audit_action is defined",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("kind ==", "expected an expression such as"),
            ("kind }}", "expected an expression without `}}`"),
            ("knd == 'push'", "expected fields of EVENTS, found `knd`"),
            (
                "repository.fullname == 'a'",
                "found `repository.fullname`; known are repository.default_branch, repository.",
            ),
            ("kind | shout == 'PUSH'", "unknown filter"),
        ] {
            let told = check(bad).unwrap_err();
            assert!(told.contains(part), "{bad}: {told}");
        }
        let told = Only::check("actor.login == 'mona'", [Stream::Alerts]).unwrap_err();
        let known = "found `actor.login`, and `actor` is no record; known are actor, count, ";
        assert!(told.contains(known) && told.ends_with(", window_ends_at"), "{told}");
        assert!(Only::check("tenant == 'a'", [Stream::Events, Stream::Alerts]).is_ok());
        assert!(Only::check("kind == 'a'", [Stream::Events, Stream::Alerts]).unwrap_err().contains("ALERTS"));
        assert!(Only::check("tenant == 'a'", [Stream::Events, Stream::Raw]).unwrap_err().contains("RAW"));
    }

    #[test]
    fn the_page_names_every_field() {
        let page = include_str!("../../../deploy/docs/operating.md");
        for (stream, of) in [(Stream::Events, "| an event |"), (Stream::Alerts, "| an alert |")] {
            let row = page.lines().find(|line| line.starts_with(of)).unwrap_or_else(|| panic!("no row `{of}`"));
            let told: BTreeSet<&str> = row.split('`').skip(1).step_by(2).collect();
            let known: BTreeSet<String> = Fields::of(stream).known;
            // A record is named by its fields.
            let is_record = |path: &str| known.iter().any(|known| known.starts_with(&format!("{path}.")));
            let fields = known.iter().map(String::as_str).filter(|path| !is_record(path));
            assert_eq!(told, fields.collect(), "{of}");
        }
    }

    #[test]
    fn it_holds_for_the_fields_as_they_are_written_to_files() {
        let event = Event::sample(1);
        let holds = |text: &str| Only::of(text).unwrap().holds(&event);
        let kind = &event.kind;
        assert!(holds(&format!("kind == '{kind}'")) && !holds(&format!("kind != '{kind}'")));
        assert!(!holds("attributes.absent.deeper == 'a'"), "an absent field is absent, however deep");
        assert!(holds("1 / tenant"), "what cannot be computed is delivered");
    }
}
