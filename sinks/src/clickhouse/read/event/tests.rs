use headrace_runtime::component::batch::Item;
use headrace_tests::harness::samples::{Sample as _, WITHOUT, bare_event, full_event};

use super::*;
use crate::clickhouse::write::insert::{Rows as _, Stamp};

/// The row of an event, as it is read.
fn stored(event: &Event) -> StoredEvent {
    let stored_at = Timestamp::from_micros(7);
    let item = Item { value: event.clone(), suspect: false, redelivered: false, sequence: 1, stored_at };
    let row = serde_json::to_value(Event::row(&item, Stamp { held_until: 0, stored_at })).unwrap();
    serde_json::from_value(row).unwrap()
}

fn comes_back(event: &Event) {
    let stored = stored(event);
    assert_eq!(stored.stored_at(), Timestamp::from_micros(7));
    assert_eq!(&stored.into_event().unwrap(), event);
}

#[test]
fn every_event_comes_back_as_it_was() {
    for event in [full_event(1), bare_event(2), Event::sample(3)] {
        comes_back(&event);
    }
    for without in WITHOUT {
        let mut event = full_event(1);
        without(&mut event);
        assert_ne!(event, full_event(1));
        comes_back(&event);
    }
}

#[test]
fn empty_text_and_no_text_are_told_apart() {
    let empty = || Some(String::new());
    let none = full_event(1);
    for event in [
        Event { action: empty(), audit_action: empty(), ..none.clone() },
        Event { actor: Some(Actor { id: Some(0), login: String::new(), kind: empty() }), ..none.clone() },
        Event {
            target: Some(Target { kind: String::new(), id: empty(), name: None, url: empty() }),
            organization: Some(Organization { id: None, login: String::new() }),
            network: Some(Network { ip: None, country: None, user_agent: None }),
            enrichment: Some(Enrichment::default()),
            assessment: Some(Assessment::default()),
            ..none
        },
    ] {
        comes_back(&event);
    }
}

#[test]
fn a_time_that_the_column_cannot_hold_is_read_from_the_guid() {
    // Its time is in the year 3000.
    let id = EventId::github("6e6f4000-e111-1634-81ab-4c9367dc0958");
    comes_back(&Event { event_time: id.created_at(), id, ..full_event(1) });
    comes_back(&Event {
        event_time: Some(Timestamp::from_micros(0)),
        id: EventId::of_source("ndjson", "1"),
        ..full_event(1)
    });
}

#[test]
fn a_row_of_an_earlier_release_is_read_by_what_is_filled() {
    let Event { changes, event_time, .. } = full_event(1);
    let earlier = StoredEvent { told: 0, matches: String::new(), changes_told: vec![], ..stored(&full_event(1)) };
    let event = earlier.into_event().unwrap();
    let assessment = event.assessment.unwrap();
    assert_eq!(
        (event.actor, event.event_time, event.changes[0].clone()),
        (full_event(1).actor, event_time, changes[0].clone())
    );
    assert_eq!((event.changes[1].before.clone(), event.changes[1].after.clone()), (None, None));
    let rules: Vec<&str> = assessment.matches.iter().map(|found| found.rule.as_str()).collect();
    assert_eq!(
        (rules, assessment.severity, assessment.matches[1].evidence.len()),
        (vec!["first", "second"], Severity::High, 0)
    );
    let earlier = StoredEvent { told: 0, ..stored(&bare_event(2)) };
    assert_eq!(earlier.into_event().unwrap(), Event { event_time: bare_event(2).id.created_at(), ..bare_event(2) });
}

#[test]
fn a_word_that_no_release_wrote_is_told_with_its_column() {
    let strange = StoredEvent { category: "weather".to_owned(), ..stored(&full_event(1)) };
    let told = strange.into_event().unwrap_err().to_string();
    assert_eq!(told, "expected a word of this release in the column `category`, found `weather`");
    let strange = StoredEvent { matches: "[".to_owned(), ..stored(&full_event(1)) };
    assert!(strange.into_event().unwrap_err().to_string().contains("column `matches` of github:72d3162e"));
}
