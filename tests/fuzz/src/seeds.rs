//! The inputs with which a target begins: good ones, and bad ones of every kind that has ever caused a failure.

use headrace::config::{Config, PREFIX};
use headrace_runtime::message::payload::{Product as _, RawDelivery};
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_tests::examples;
use headrace_tests::harness::samples::Sample as _;

/// Texts that may break parsers, in a JSON body and elsewhere.
const ODD: [&str; 18] = [
    r#"{"sender":{"login":"\ud800"},"repository":{"full_name":"\udc00\ud800"}}"#,
    r#"{"organization":{"login":"a\u0000b"},"changes":{"a":{"from":"\u202e","to":"\u2066"}}}"#,
    "{\"organization\":{\"login\":\"\u{202e}moc.buhtig\u{2066}\u{200f}\u{feff}\"}}",
    r#"{"sender":{"id":1e999999,"login":-0.0},"repository":{"id":123456789012345678901234567890}}"#,
    r#"{"organization":{"login":"a"},"organization":{"login":"b"},"action":1,"action":[]}"#,
    r#"{"changes":{"a":{"b":{"c":{"d":{"from":1}}}},"":{"":""},"from":null}}"#,
    r#"{"issue":{"updated_at":"-009999-01-01T00:00:00Z","created_at":"9999-12-31T23:59:60.999999999+23:59"}}"#,
    r#"{"a":"\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\"","organization":{"login":"x"}}"#,
    r#"{"organization" : {"login" : tru}}"#,
    "{\"organization\":{\"login\":\"a\u{0}\"}}",
    "{}",
    "[]",
    "\"\"",
    "-",
    "\u{feff}{}",
    "payload=%7B%22action%22%3A%22%FF%22%7D&payload=%",
    "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
];

/// The seeds of the target `name`.
pub async fn of(name: &str) -> Vec<Vec<u8>> {
    let odd = ODD.iter().map(|text| text.as_bytes().to_vec());
    match name {
        "avro" => records(),
        "settings" => settings(),
        "split" | "ndjson" => odd.chain(lines()).chain(deep()).collect(),
        "form" => odd.chain(bodies().await.iter().map(|body| form(body))).collect(),
        _ => odd.chain(bodies().await).chain(deep()).collect(),
    }
}

/// One published body of each kind.
async fn bodies() -> Vec<Vec<u8>> {
    let mut bodies = examples::all().await;
    bodies.dedup_by(|one, other| one.kind == other.kind);
    bodies.into_iter().map(|example| example.body).collect()
}

/// Nesting that overflows any stack, and very long lists.
fn deep() -> Vec<Vec<u8>> {
    let nested = |open: &str, close: &str, times: usize| {
        format!(r#"{{"organization":{{"x":{}0{},"login":"a"}}}}"#, open.repeat(times), close.repeat(times)).into_bytes()
    };
    vec![
        nested("[", "]", 100),
        nested("[", "]", 100_000),
        nested(r#"{"a":"#, "}", 100_000),
        nested("[", "", 100_000),
        nested("[0,[],", "]", 500),
        format!(r#"{{"commits":[{}0]}}"#, "0,".repeat(100_000)).into_bytes(),
    ]
}

/// Records of newline-delimited JSON, good and bad.
fn lines() -> Vec<Vec<u8>> {
    let texts = [
        "{\"id\":\"a-1\",\"time\":\"2026-03-01T12:00:00Z\",\"kind\":\"login\",\"tenant\":\"acme\",\"actor\":\"mona\"}\r\n\n{\"id\":7,\"time\":1772366400123}",
        r#"{"id":1,"time":1772366400.5,"actor":{"id":7,"login":"mona"},"target":{"type":"host","name":"db"},"repo":"a/b"}"#,
        r#"{"id":1,"time":1,"geo":{"city":"Oslo","at":{"lat":59.9}},"geo":{},"geo.city":"Rome","outcome":"denied","ip":"::1"}"#,
        r#"{"id":"\u0000","time":1e999,"kind":"\r\n","tenant":"\ud800"}"#,
        r#"{"id":-0,"time":-0.0,"kind":{},"tenant":[]}"#,
        r#"{"id":"caf\u00e9","time":"9999-12-31T23:59:60Z"}"#,
        r#"{"i\u0064":"a","id":null,"time":9223372036854775807,"kind":" "}"#,
        r#"{"id":1,"time":1} {"id":2,"time":2}"#,
    ];
    let mut lines: Vec<Vec<u8>> = texts.into_iter().map(|text| text.as_bytes().to_vec()).collect();
    let many: String = (0..300).map(|at| format!("\"key{at}\":{{\"a\":\"{}\"}},", "x".repeat(at))).collect();
    lines.push(format!("{{{many}\"id\":1,\"time\":1}}").into_bytes());
    lines.push("{\"id\":1,\"time\":1}\n".repeat(1_000).into_bytes());
    lines
}

fn form(body: &[u8]) -> Vec<u8> {
    let encoded: String = body.iter().map(|byte| format!("%{byte:02X}")).collect();
    format!("a=b&payload={encoded}").into_bytes()
}

fn records() -> Vec<Vec<u8>> {
    let written = [Event::sample(1).write("scored"), Alert::sample(1).write("alerted")];
    let mut seeds: Vec<Vec<u8>> = written.into_iter().flatten().map(|message| message.payload.to_vec()).collect();
    seeds.push(RawDelivery::sample(1).body.to_vec());
    seeds
}

fn settings() -> Vec<Vec<u8>> {
    let reference = headrace_settings::reference::<Config>(PREFIX);
    let settings = reference.lines().filter_map(|line| line.strip_prefix('#'));
    let uncommented = settings.filter(|line| !line.starts_with(' ')).collect::<Vec<_>>().join("\n");
    vec![
        reference.into_bytes(),
        uncommented.into_bytes(),
        b"a.b.c = [{}, [1, 2.0], '''x''', 1979-05-27]\n[[x.y]]".to_vec(),
    ]
}
