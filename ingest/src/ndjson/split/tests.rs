use proptest::prelude::*;

use super::*;
use crate::tenant::Tenants;

fn within(duplicate_window: Duration) -> Split {
    Split::new(&Config::default(), Common { tenants: &Tenants::default(), duplicate_window })
}

fn split() -> Split {
    within(Duration::from_secs(120))
}

fn record(line: &str) -> Result<Record, &'static str> {
    split().record(line.as_bytes().to_vec().into()).map_err(|bad| bad.code)
}

/// The line with `id` and `time` as they stand in it.
fn with(id: &str, time: &str) -> String {
    format!("{{\"id\":{id},\"time\":{time}}}")
}

#[test]
fn lines_keep_their_numbers_and_lose_their_ends() {
    let found = |text: &'static str| -> Vec<(usize, String)> {
        let line = |(number, line): (usize, Bytes)| (number, String::from_utf8(line.to_vec()).unwrap());
        lines(&Bytes::from_static(text.as_bytes())).map(line).collect()
    };
    let owned = |pairs: &[(usize, &str)]| pairs.iter().map(|&(at, line)| (at, line.to_owned())).collect::<Vec<_>>();
    assert_eq!(found("a\nb\r\n\n \t\r\nc"), owned(&[(1, "a"), (2, "b"), (5, "c")]));
    assert_eq!(found("a\r\r\n b \n"), owned(&[(1, "a\r"), (2, " b ")]));
    assert_eq!(found(""), []);
    assert_eq!(found("\n\n"), []);
}

#[test]
fn a_record_has_the_lines_bytes() {
    let line = " {\"kind\":\"login\", \"time\":\"2026-01-31T08:15:30Z\",\"id\":\"a b\", \"tenant\":\"Acme\"}\t";
    let found = record(line).unwrap();
    let expected = Record {
        id: EventId::of_source("ndjson", "a b"),
        event_time: Timestamp::parse("2026-01-31T08:15:30Z"),
        kind: "login".to_owned(),
        tenant: "acme".to_owned(),
        headers: Vec::new(),
        body: line.as_bytes().to_vec().into(),
    };
    assert_eq!(found, expected);
}

#[test]
fn a_line_is_one_object() {
    let deep = format!("{{\"id\":1,\"time\":1,\"x\":{}{}}}", "[".repeat(600), "]".repeat(600));
    for line in [
        "1",
        "[]",
        "\"{}\"",
        "null",
        "{",
        "{} {}",
        "{},",
        "x{}",
        "{\"id\":1,\"time\":1}}",
        "{\"id\":1,\"time\":1,}",
        "{\"id\":1,\"time\":1,\"x\":01}",
        "{\"id\":1,\"time\":1,\"x\":tru}",
        "{\"id\":1 \"time\":1}",
        "{id:1,\"time\":1}",
        "\u{feff}{\"id\":1,\"time\":1}",
        &deep,
    ] {
        assert_eq!(record(line).err(), Some("line_malformed"), "{line}");
    }
    let bytes = b"{\"id\":1,\"time\":1,\"x\":\"\xff\"}";
    assert_eq!(split().record(Bytes::from_static(bytes)).err().map(|bad| bad.code), Some("line_malformed"));
}

#[test]
fn an_id_is_a_short_text_or_a_whole_number() {
    let long = format!("\"{}\"", "a".repeat(200));
    for (id, expected) in [
        ("\"a\"", Ok("ndjson:a")),
        ("7", Ok("ndjson:7")),
        ("-7", Ok("ndjson:-7")),
        ("123456789012345678901234567890", Ok("ndjson:123456789012345678901234567890")),
        ("\"caf\\u00e9\"", Ok("ndjson:café")),
        ("\"\"", Err("id_malformed")),
        ("\"a\\nb\"", Err("id_malformed")),
        ("\"a\\u0085b\"", Err("id_malformed")),
        ("\" a\"", Err("id_malformed")),
        ("\"a\\u00a0\"", Err("id_malformed")),
        ("\"\\ud800\"", Err("id_malformed")),
        ("1.5", Err("id_malformed")),
        ("1e3", Err("id_malformed")),
        ("true", Err("id_malformed")),
        ("[1]", Err("id_malformed")),
        ("{}", Err("id_malformed")),
        ("null", Err("id_missing")),
    ] {
        let found = record(&with(id, "1"));
        assert_eq!(found.as_ref().map(|record| record.id.as_str()).map_err(|code| *code), expected, "{id}");
    }
    assert_eq!(record("{\"time\":1}").err(), Some("id_missing"));
    assert!(record(&with(&long, "1")).is_ok());
    assert_eq!(record(&with(&long.replace('a', "é"), "1")).err(), Some("id_malformed"));
}

#[test]
fn a_time_is_told_by_its_form_and_size() {
    for (time, micros) in [
        ("\"1970-01-01T00:00:00Z\"", 0),
        ("\"2026-01-31T10:15:30.25+02:00\"", 1_769_847_330_250_000),
        ("0", 0),
        ("1769847330", 1_769_847_330_000_000),
        ("1769847330250", 1_769_847_330_250_000),
        ("1769847330250001", 1_769_847_330_250_001),
        ("1769847330250001999", 1_769_847_330_250_001),
        ("1769847330.250001", 1_769_847_330_250_001),
        ("1.769847330e9", 1_769_847_330_000_000),
        ("9223372036", 9_223_372_036_000_000),
        ("9223372036854", 9_223_372_036_854_000),
        ("9223372036854775", 9_223_372_036_854_775),
        ("9223372036854775807", 9_223_372_036_854_775),
        ("10000000000", 10_000_000_000_000),
    ] {
        assert_eq!(record(&with("1", time)).unwrap().event_time, Some(Timestamp::from_micros(micros)), "{time}");
    }
    for time in [
        "\"yesterday\"",
        "\"2026-01-31\"",
        "\"2026-01-31T08:15:30\"",
        "\"1969-12-31T23:59:59Z\"",
        "\"2300-01-01T00:00:00Z\"",
        "\"1769847330\"",
        "-1",
        "-0.5",
        "9999999999",
        "9999999999999",
        "9223372036854775808",
        "1769847330250.5",
        "1e300",
        "1e999",
        "true",
        "[1]",
    ] {
        assert_eq!(record(&with("1", time)).err(), Some("time_malformed"), "{time}");
    }
    assert_eq!(record("{\"id\":1}").err(), Some("time_missing"));
    assert_eq!(record("{\"id\":1,\"time\":null}").err(), Some("time_missing"));
}

#[test]
fn a_time_may_be_ahead_by_a_quarter_of_the_duplicate_window() {
    let now = Timestamp::from_seconds(1_772_366_400);
    for (window_s, allowed_s) in [(120, 30), (40, 10), (3_600, 900)] {
        let split = within(Duration::from_secs(window_s));
        let ahead = |seconds: i64| {
            let record = record(&with("1", &(1_772_366_400 + seconds).to_string())).unwrap();
            split.check_ahead(&record, now).map_err(|bad| (bad.code, bad.to_string()))
        };
        assert_eq!((ahead(-1_000_000_000), ahead(0), ahead(allowed_s)), (Ok(()), Ok(()), Ok(())), "{window_s}");
        let (code, words) = ahead(allowed_s + 1).unwrap_err();
        assert_eq!(code, "time_ahead", "{window_s}");
        let expected = format!(
            "expected a time at most {allowed_s} s ahead of the clock here, found one that is {} s",
            allowed_s + 1
        );
        assert!(words.starts_with(&expected), "{words}");
    }
    let (_, words) = {
        let record = record(&with("1", "1772366401")).unwrap();
        within(Duration::from_secs(2)).check_ahead(&record, now).map_err(|bad| (bad.code, bad.to_string())).unwrap_err()
    };
    assert!(words.starts_with("expected a time at most 0.5 s ahead"), "{words}");
}

#[test]
fn a_line_waits_until_it_is_ahead_by_no_more_than_a_quarter_of_the_window() {
    let line = |seconds: i64| {
        let at = Timestamp::now().as_micros() / 1_000_000 + seconds;
        Bytes::from(with("1", &at.to_string()))
    };
    let read = |window_s: u64, seconds: i64| Records::record(&within(Duration::from_secs(window_s)), line(seconds));
    assert!(matches!(read(40, 25), Err(Unfit::Early(wait)) if wait <= Duration::from_secs(15)));
    assert!(read(120, 25).is_ok());
    assert!(matches!(read(40, 1_000), Err(Unfit::Never(_))));
}

#[test]
fn kind_and_tenant_are_names_or_absent() {
    let of = |more: &str| record(&format!("{{\"id\":1,\"time\":1{more}}}")).map(|record| (record.kind, record.tenant));
    let owned = |kind: &str, tenant: &str| Ok((kind.to_owned(), tenant.to_owned()));
    assert_eq!(of(""), owned("record", "none"));
    assert_eq!(of(",\"kind\":null,\"tenant\":null"), owned("record", "none"));
    assert_eq!(of(",\"kind\":\" \",\"tenant\":7"), owned("record", "7"));
    assert_eq!(of(",\"kind\":\" user.Login\\r\\nx \""), owned("user.Login\u{fffd}\u{fffd}x", "none"));
    assert_eq!(of(",\"kind\":true"), owned("true", "none"));
    let long = of(&format!(",\"kind\":\"{}\"", "é".repeat(100))).unwrap().0;
    assert_eq!(long, "é".repeat(64));
    assert_eq!(of(",\"kind\":{}"), Err("kind_malformed"));
    for tenant in ["{}", "[\"acme\"]", "\"\"", "\"a\\nb\"", "\" acme\"", "\"\\udfff\""] {
        assert_eq!(of(&format!(",\"tenant\":{tenant}")), Err("tenant_malformed"), "{tenant}");
    }
}

#[test]
fn fields_are_where_the_settings_say() {
    let config = Config {
        id: "event.id".to_owned(),
        time: "event.at.ms".to_owned(),
        kind: "event.what".to_owned(),
        tenant: "org.login".to_owned(),
        default_tenant: Some("acme-eu".to_owned()),
        ..Config::default()
    };
    let tenants = Tenants { by_login: [("acme-eu".to_owned(), "acme".to_owned())].into() };
    let split = Split::new(&config, Common { tenants: &tenants, duplicate_window: Duration::from_secs(120) });
    let found = |line: &'static str| {
        let record = split.record(Bytes::from_static(line.as_bytes())).map_err(|bad| bad.to_string())?;
        Ok((record.id.as_str().to_owned(), record.kind, record.tenant))
    };
    let owned = |id: &str, kind: &str, tenant: &str| Ok((id.to_owned(), kind.to_owned(), tenant.to_owned()));
    let line = r#"{"event":{"id":1,"id":2,"what":"x","at":{"ms":1}},"event":{"id":3},"org":{"login":"Octo"}}"#;
    assert_eq!(found(line), owned("ndjson:1", "x", "octo"));
    assert_eq!(found(r#"{"org":null,"org":{"login":"b"},"event":{"id":1,"at":{"ms":1}}}"#), {
        owned("ndjson:1", "record", "acme")
    });
    assert_eq!(found(r#"{"e\u0076ent":{"i\u0064":1,"at":{"ms":1}}}"#), owned("ndjson:1", "record", "acme"));
    let missing = |field: &str| Err(format!("expected the field `{field}`, found none"));
    assert_eq!(found(r#"{"event":{},"event":{"id":1}}"#), missing("event.id"));
    assert_eq!(found(r#"{"event":{"id":1,"at":7}}"#), missing("event.at.ms"));
    assert_eq!(found(r#"{"event.id":1,"event.at.ms":1}"#), missing("event.id"));
}

#[test]
fn an_unreadable_line_is_a_record_that_says_why() {
    let found = split().unreadable("logs/a.ndjson@17\n", Bytes::from_static(b"{"), " line_malformed:\r\nexpected ");
    assert_eq!(found.id.as_str(), "ndjson:logs/a.ndjson@17");
    let reason = "line_malformed:\u{fffd}\u{fffd}expected".to_owned();
    assert_eq!(found.headers, [(header::UNREADABLE.to_owned(), reason)]);
    assert_eq!((found.kind.as_str(), found.event_time, &found.body[..]), (UNREADABLE, None, &b"{"[..]));
    let long = split().unreadable(&"é".repeat(500), Bytes::new(), &"x".repeat(9_999));
    assert_eq!((long.id.as_str().len(), long.headers[0].1.len()), ("ndjson:".len() + 200, REASON_BYTES_MAX));
}

proptest! {
    #[test]
    fn any_bytes_make_records_or_are_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, line) in lines(&body.into()) {
            prop_assert!(!line.contains(&b'\n'));
            let _ = split().record(line);
        }
    }

    /// Whatever stands in the four fields, a record's names fit into headers of the broker and come back from there.
    #[test]
    fn names_fit_into_headers(id in any::<String>(), kind in any::<String>(), tenant in any::<String>()) {
        let line = serde_json::json!({ "id": id, "time": 1, "kind": kind, "tenant": tenant }).to_string();
        let Ok(record) = split().record(line.into()) else { return Ok(()) };
        for text in [record.id.as_str(), &record.kind] {
            prop_assert!(!text.is_empty() && text.trim() == text && !text.chars().any(char::is_control), "{:?}", text);
        }
    }

    /// A time depends on nothing but the line, and is one that every part can write.
    #[test]
    fn any_number_is_a_time_in_range_or_refused(number in prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("JSON has no others", |number| number.is_finite()).prop_map(|number| format!("{number:e}")),
    ]) {
        if let Ok(record) = record(&with("1", &number)) {
            let micros = record.event_time.unwrap().as_micros();
            prop_assert!((0..=TIME_MICROS_MAX).contains(&micros), "{}", micros);
        }
    }
}
