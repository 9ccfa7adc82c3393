//! The targets. Each takes any bytes, and panics when the result breaks a promise.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use headrace::config::{Config, PREFIX, told};
use headrace_ingest::github::config::{Config as GitHub, Scoped};
use headrace_ingest::github::tenant::{login_of, names_of};
use headrace_ingest::github::{Claim, Keys, MediaType, form_payload, parse_signature};
use headrace_ingest::ndjson::config::Config as Ndjson;
use headrace_ingest::ndjson::split::{Split, lines};
use headrace_ingest::source::Common;
use headrace_ingest::tenant::Tenants;
use headrace_runtime::message::payload::{Product as _, RawDelivery};
use headrace_runtime::observe::trace::TraceParent;
use headrace_runtime::secret::Secret;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::{Category, Event, Severity};
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{catalog, codec, header, subject, token};
use headrace_settings::{Document, Variables, load};
use headrace_stages::normalize::normalize as normalized;
use headrace_stages::score::{self, Score};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const ALL: [(&str, Target); 9] = [
    ("signature", signature),
    ("form", form),
    ("tenant", tenant),
    ("normalize", normalize),
    ("split", split),
    ("ndjson", ndjson),
    ("avro", avro),
    ("subject", subject),
    ("settings", settings),
];

/// The longest subject. NATS' control line has 4096 bytes, and also holds a reply subject and sizes.
const SUBJECT_MAX_BYTES: usize = 1_024;
/// The largest event that normalize makes of any body.
const EVENT_MAX_BYTES: usize = 512 << 10;

/// Longer bodies are not compared with another parser's result, because the search for keys takes long.
const COMPARED_MAX_BYTES: usize = 4 << 10;

/// A header and a body. Only the right signature is accepted.
pub fn signature(data: &[u8]) {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| keys(Vec::new()));
    let text = String::from_utf8_lossy(data);
    let (value, body) = text.split_once('\n').unwrap_or((&text, ""));
    if let Some(parent) = TraceParent::parse(value) {
        assert_eq!(parent.trace_id(), parent.child().trace_id());
    }
    if let Some(signature) = parse_signature(value) {
        assert_eq!(value[7..].to_ascii_lowercase(), hex::encode(signature));
        assert_eq!(KEYS.authorize(&claim(body.as_bytes(), None, signature)).is_ok(), signature == sign(body));
    }
    assert!(KEYS.authorize(&claim(body.as_bytes(), Some(7), sign(body))).is_ok());
}

fn keys(scoped: Vec<Scoped>) -> Keys {
    Keys::new(&GitHub { secrets: vec![Secret::new("a secret")], scoped }, &Tenants::default())
}

fn claim(body: &[u8], hook_id: Option<u64>, signature: [u8; 32]) -> Claim<'_> {
    Claim { body, hook_id, signature, media_type: MediaType::Json }
}

fn sign(body: impl AsRef<[u8]>) -> [u8; 32] {
    let mac = Hmac::<Sha256>::new_from_slice(b"a secret").expect("HMAC takes keys of any length");
    mac.chain_update(body.as_ref()).finalize().into_bytes().into()
}

/// A form. The gateway and normalize read the same body from it.
pub fn form(data: &[u8]) {
    let event = normalized(&delivery("push", "application/x-www-form-urlencoded", data));
    match form_payload(data) {
        None => assert!(event.is_err()),
        Some(json) => {
            let of_json = normalized(&delivery("push", "application/json", json.as_bytes()));
            let raw = event.as_ref().ok().map(|event| event.raw.clone());
            assert_eq!(event.ok(), of_json.ok().zip(raw).map(|(event, raw)| Event { raw, ..event }));
        }
    }
}

/// A body. Its login is the one that another parser finds, or none. The general secret cannot sign for an organization
/// that has a secret of its own.
pub fn tenant(data: &[u8]) {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| {
        let own = Scoped { organization: Some("acme".to_owned()), ..Scoped::default() };
        keys(vec![Scoped { secrets: vec![Secret::new("its own")], ..own }])
    });
    let (login, names) = (login_of(data), names_of(data));
    assert_eq!(login, names.login);
    assert!(login.as_ref().is_none_or(|login| names.logins.contains(&login.to_ascii_lowercase())));
    let allowed = KEYS.authorize(&claim(data, None, sign(data)));
    assert_eq!(allowed.is_ok(), !names.logins.contains("acme"));
    assert!(allowed.is_err() || allowed != Ok("acme".to_owned()));
    if let Some(login) = &login {
        assert!(login.len() <= data.len());
    }
    if data.len() > COMPARED_MAX_BYTES {
        return;
    }
    // The parsers may differ when a key comes twice or is escaped.
    let once = |key: &str| data.windows(key.len()).filter(|bytes| *bytes == key.as_bytes()).count() <= 1;
    let plain = !data.contains(&b'\\')
        && ["organization", "repository", "owner", "login", "installation", "account"].iter().all(|key| once(key));
    if let (true, Ok(body @ Value::Object(_))) = (plain, serde_json::from_slice::<Value>(data)) {
        let paths = ["/organization/login", "/repository/owner/login", "/installation/account/login"];
        assert_eq!(login.as_deref(), paths.iter().find_map(|path| body.pointer(path)?.as_str()));
    }
}

/// A body of any kind. It becomes poison, or an event that every later stage and sink can carry.
pub fn normalize(data: &[u8]) {
    static SCORE: LazyLock<Score> =
        LazyLock::new(|| Score::from_config(&score::Config::default()).expect("a test reads the rules"));
    static KINDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let mut kinds: Vec<&str> = catalog::github_kinds().collect();
        kinds.sort_unstable();
        kinds
    });
    // Choose the kind by the body's length. So every kind occurs, and bodies can be seeds without a prefix.
    let kind = KINDS[data.len() % KINDS.len()];
    let Ok(mut event) = normalized(&delivery(kind, "application/json", data)) else { return };
    assert!(codec::encode(&event).expect("any event can be written").len() <= EVENT_MAX_BYTES);
    event.assessment = Some(SCORE.assess(&event));
    check(&event);
}

/// Lines of newline-delimited JSON. Each is refused, or it becomes a record that every later part can carry.
pub fn split(data: &[u8]) {
    static SPLIT: LazyLock<Split> = LazyLock::new(|| {
        let common = Common { tenants: &Tenants::default(), duplicate_window: Duration::from_secs(120) };
        Split::new(&Ndjson::default(), common)
    });
    for (_, line) in lines(&Bytes::copy_from_slice(data)) {
        let Ok(record) = SPLIT.record(line.clone()) else { continue };
        assert_eq!(SPLIT.record(line.clone()).as_ref(), Ok(&record), "a line makes the same record again");
        assert_eq!(record.body, line);
        for (name, max) in [(record.id.as_str(), "ndjson:".len() + 200), (&record.kind, 128)] {
            let is_told = !name.is_empty() && name.trim() == name && !name.chars().any(char::is_control);
            assert!(is_told && name.len() <= max, "{name:?}");
        }
        let at = record.event_time.expect("each record has a time");
        assert!((0..=i64::MAX / 1_000).contains(&at.as_micros()), "{at}");
        let event = normalized(&collected(&record.kind, at, &line)).expect("what was taken can be read");
        assert_eq!((event.occurred_at, &event.kind), (at, &record.kind));
    }
}

/// A record of newline-delimited JSON. It becomes poison, or an event that every later stage and sink can carry.
pub fn ndjson(data: &[u8]) {
    static SCORE: LazyLock<Score> =
        LazyLock::new(|| Score::from_config(&score::Config::default()).expect("a test reads the rules"));
    let Ok(mut event) = normalized(&collected("login", Timestamp::from_seconds(1_772_000_000), data)) else { return };
    assert!(codec::encode(&event).expect("any event can be written").len() <= EVENT_MAX_BYTES);
    let assessment = SCORE.assess(&event);
    assert!(assessment.matches.is_empty(), "GitHub's rules see GitHub's events alone: {assessment:?}");
    event.assessment = Some(assessment);
    check(&event);
}

/// A record. It is refused, or it is read and written again unchanged.
pub fn avro(data: &[u8]) {
    let prefixed = |record: &[u8]| [&record[..10.min(record.len())], data].concat();
    let of_event = LazyLock::force(&PREFIXES);
    for bytes in [data.to_vec(), prefixed(&of_event.0), prefixed(&of_event.1)] {
        if let Ok(event) = codec::decode::<Event>(&bytes) {
            check(&event);
        }
        if let Ok(alert) = codec::decode::<Alert>(&bytes) {
            assert!(serde_json::to_vec(&alert).is_ok());
            if let Ok(message) = alert.write("alerted") {
                assert_eq!(codec::decode::<Alert>(&message.payload).ok(), Some(alert));
            }
        }
    }
}

/// The marker and the fingerprint of an event and of an alert.
static PREFIXES: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let prefix = |fingerprint: u64| [&[0xc3, 0x01][..], &fingerprint.to_le_bytes()].concat();
    let [(_, event, _), (_, alert, _)] = codec::all_schemas();
    (prefix(event), prefix(alert))
});

/// Checks what every stage and sink relies on.
fn check(event: &Event) {
    assert!(serde_json::to_vec(event).is_ok());
    let _ = (event.occurred_at.to_string(), event.received_at.since(event.occurred_at), event.id.created_at());
    match event.write("scored") {
        Ok(message) => {
            assert!(subject::is_live(&message.subject), "{}", message.subject);
            assert_eq!(codec::decode::<Event>(&message.payload).ok().as_ref(), Some(event));
        }
        Err(_) => assert!(event.id.as_str().contains(['\r', '\n'])),
    }
}

/// Names. Whatever they are, NATS accepts the subjects that are made of them.
pub fn subject(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (tenant, rest) = text.split_once('\n').unwrap_or((&text, "x"));
    for subject in [
        subject::raw(tenant, rest, &text),
        subject::scored(tenant, Category::Code, Severity::High),
        subject::handover(rest, tenant, Category::Code),
        subject::alert(tenant, Severity::High, rest),
    ] {
        assert!(subject::is_live(&subject) && subject.len() <= SUBJECT_MAX_BYTES, "{subject}");
        assert_eq!(subject::tenant_of(&subject), token::escaped(tenant));
    }
    let _ = (subject::is_live(&text), subject::tenant_of(&text).len());
    let _ = (EventId::from_stored(tenant).created_at(), Timestamp::parse(tenant));
}

/// A configuration. It is read, or its problems can be printed.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (document, variable) = text.split_once('\u{1}').unwrap_or((&text, ""));
    let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
    let variables = Variables::of(PREFIX, [(format!("{PREFIX}{name}"), value.to_owned())]);
    let document = Document { name: "headrace.toml", text: document };
    let roles = [headrace::role::Role::Ingest, headrace::role::Role::Pipeline];
    if let Err(problems) = load(Some(document), &variables, |config: &Config| told(config.validate(&roles))) {
        assert!(!problems.to_string().is_empty());
    }
}

fn collected(kind: &str, at: Timestamp, body: &[u8]) -> RawDelivery {
    RawDelivery {
        id: EventId::of_source("ndjson", "1"),
        source: "ndjson".to_owned(),
        event_time: Some(at),
        headers: Vec::new(),
        ..delivery(kind, "", body)
    }
}

fn delivery(kind: &str, media_type: &str, body: &[u8]) -> RawDelivery {
    RawDelivery {
        id: EventId::github("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        tenant: "acme".to_owned(),
        source: "github".to_owned(),
        event: kind.to_owned(),
        received_at: Timestamp::from_seconds(1_772_000_000),
        event_time: None,
        headers: vec![(header::CONTENT_TYPE.to_owned(), media_type.to_owned())],
        body: Bytes::copy_from_slice(body),
        sha256: RawDelivery::sha256_of(body),
        sequence: 42,
    }
}
