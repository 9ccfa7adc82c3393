//! A service that is away, refuses, or does not give single objects.

use headrace_local::poll;
use headrace_runtime::fault::FaultClass;
use headrace_tests::standin::server::{Failure, When, Which};

use super::*;

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_of_and_the_others_are_read() {
    let mut bed = Bed::new().await;
    for key in ["a", "b", "c"] {
        bed.put(&format!("in/{key}.log"), &format!("{key}\n"));
    }
    bed.s3.bucket().denied.insert("in/b.log".to_owned());
    let (found, fault) = bed.read_until_fault().await;
    assert_eq!(found, ["a", "c"]);
    let fault = fault.unwrap();
    assert_eq!(fault.class, FaultClass::Broken, "{fault}");
    assert!(fault.to_string().contains("`in/b.log`") && fault.to_string().contains("AccessDenied"), "{fault}");
    assert!(fault.to_string().contains("give this account the right"), "{fault}");
    bed.put("in/d.log", "d\n");
    assert_eq!(bed.read_until_fault().await.0, ["d"]);
    // A while later it may be read.
    bed.s3.bucket().denied.clear();
    bed.cursor.as_mut().unwrap()["aside"][0]["again_at"] = 0.into();
    bed.go_on(|_| ());
    assert_eq!(bed.read().await, ["b"]);
    assert_eq!(bed.read().await, [""; 0]);
    // One that never may, while others may, becomes a dead letter. It says how there is a way back.
    bed.put("in/e.log", "e\n");
    bed.s3.bucket().denied.insert("in/e.log".to_owned());
    assert!(bed.read_until_fault().await.1.is_some());
    bed.wait_long();
    let found = bed.read().await;
    assert!(found.len() == 1 && found[0].starts_with("!in/e.log at byte 0: cannot read the object"), "{found:?}");
    assert!(found[0].contains("run `headrace sources rewind test.bucket`"), "{found:?}");
    assert_eq!(bed.cursor.as_ref().unwrap()["given_up"], 1);
    bed.go_on(|config| config.full_listing_s = 0);
    assert_eq!(bed.read().await, [""; 0]);
}

#[tokio::test]
async fn rights_that_lapse_for_all_objects_make_no_dead_letter_of_any() {
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "a\n");
    assert_eq!(bed.read().await, ["a"]);
    let deny = |bed: &Bed, keys: &[&str]| {
        bed.s3.bucket().denied.extend(keys.iter().map(|key| format!("in/{key}.log")));
    };
    // One is denied while others can be read, then all are.
    bed.put("in/b.log", "b\n");
    deny(&bed, &["b"]);
    assert!(bed.read_until_fault().await.1.is_some());
    assert_eq!(bed.aside().len(), 1);
    deny(&bed, &["a", "c"]);
    bed.put("in/c.log", "c\n");
    for _ in 0..3 {
        bed.wait_long();
        let (found, fault) = bed.read_until_fault().await;
        assert!(found.is_empty(), "{found:?}");
        let fault = fault.unwrap();
        assert!(fault.class == FaultClass::Broken && fault.to_string().contains("expected credentials"), "{fault}");
    }
    assert_eq!(bed.aside().len(), 1, "what comes now is not set aside for what is not its own trouble");
    bed.s3.bucket().denied.clear();
    bed.wait_long();
    let mut found = bed.read().await;
    found.sort_unstable();
    assert_eq!(found, ["b", "c"]);

    // Where nothing was ever read, nobody can tell.
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "a\n");
    deny(&bed, &["a"]);
    for _ in 0..3 {
        let (found, fault) = bed.read_until_fault().await;
        assert!(found.is_empty() && fault.is_some_and(|fault| fault.class == FaultClass::Broken), "{found:?}");
        bed.wait_long();
    }
    bed.s3.bucket().denied.clear();
    assert_eq!(bed.read().await, ["a"]);
}

#[tokio::test]
async fn an_object_that_is_set_aside_and_then_removed_is_dropped() {
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "a\n");
    bed.put("in/b.log", "b\n");
    // The service goes on to deny it when it is gone, so that nobody learns what was there.
    bed.s3.bucket().denied.insert("in/b.log".to_owned());
    assert!(bed.read_until_fault().await.1.is_some());
    assert_eq!(bed.aside().len(), 1);
    bed.s3.bucket().remove("in/b.log");
    bed.wait_long();
    assert_eq!(bed.read().await, [""; 0]);
    assert_eq!(bed.aside().len(), 0);
}

#[tokio::test]
async fn archived_objects_are_told_of_and_read_when_they_are_restored() {
    let mut bed = Bed::new().await;
    let count = position::ASIDE_MAX;
    for number in 0..count {
        let key = format!("in/{number:02}.log");
        bed.put(&key, &format!("{number}\n"));
        bed.s3.bucket().archived.insert(key);
    }
    bed.put("in/z.log", "z\n");
    let (found, fault) = bed.read_until_fault().await;
    assert_eq!(found, ["z"]);
    let fault = fault.unwrap();
    assert!(fault.class == FaultClass::Broken && fault.to_string().contains("restore it"), "{fault}");
    assert_eq!(bed.aside().len(), count);
    // One more stops the rest, and becomes no dead letter: a bucket may have millions of them.
    bed.put("in/zz.log", "zz\n");
    bed.s3.bucket().archived.insert("in/zz.log".to_owned());
    let (found, fault) = bed.read_until_fault().await;
    assert!(found.is_empty() && fault.unwrap().to_string().contains("expected at most 16"), "{found:?}");
    bed.s3.bucket().archived.clear();
    bed.wait_long();
    let mut found = bed.read().await;
    found.sort_by_key(|number| number.parse::<usize>().unwrap_or(usize::MAX));
    assert_eq!(found.pop().as_deref(), Some("zz"));
    assert_eq!(found, numbers(0..count));
}

#[tokio::test]
async fn a_line_without_an_end_on_a_slow_link_does_not_stop_the_other_objects() {
    let mut bed = Bed::new().await;
    let piece = "x".repeat(2 << 20);
    bed.put("in/a.log", &format!("{}\n1\n", piece.repeat(12)));
    bed.put("in/b.log", "b\n");
    bed.s3.bucket().slow.insert("in/a.log".to_owned(), Duration::from_millis(400));
    bed.limits.time = Duration::from_millis(300);
    let mut found = Vec::new();
    while found.is_empty() {
        let (more, fault) = bed.read_until_fault().await;
        found = more;
        assert!(fault.is_none_or(|fault| fault.to_string().contains("in/a.log")));
    }
    assert_eq!(found, ["b"]);
    assert_eq!(bed.aside()[0]["reading"]["offset"], 0);
    // On a better link it is read, with no more of the line than may be kept.
    bed.s3.bucket().slow.clear();
    bed.limits = Limits::default();
    bed.cursor.as_mut().unwrap()["aside"][0]["again_at"] = 0.into();
    let found = bed.read().await;
    assert!(found[0].starts_with("!in/a.log at byte 0: expected a line of at most 1000 bytes"), "{}", found[0]);
    assert_eq!(found[1..], ["1"]);
}

#[tokio::test]
async fn more_objects_that_cannot_be_read_than_are_set_aside_are_in_the_way_until_they_can_be() {
    let mut bed = Bed::new().await;
    bed.put("in/+.log", "proof\n");
    assert_eq!(bed.read().await, ["proof"]);
    let count = position::ASIDE_MAX + 2;
    for number in 0..count {
        let key = format!("in/{number:02}.log");
        bed.put(&key, &format!("{number}\n"));
        bed.s3.bucket().denied.insert(key);
    }
    for _ in 0..2 {
        let (found, fault) = bed.read_until_fault().await;
        assert!(found.is_empty() && fault.as_ref().is_some_and(|fault| fault.class == FaultClass::Broken), "{fault:?}");
    }
    // What is in the way does not keep the others from being given up.
    let aside = &mut bed.cursor.as_mut().unwrap()["aside"][0];
    aside["again_at"] = 0.into();
    (aside["trouble"]["counted"], aside["trouble"]["since"]) = (1_000.into(), 0.into());
    let (found, fault) = bed.read_until_fault().await;
    assert!(found.len() == 1 && found[0].starts_with("!in/00.log at byte 0"), "{found:?}");
    assert!(fault.is_some_and(|fault| fault.class == FaultClass::Broken));
    bed.s3.bucket().denied.clear();
    for aside in bed.cursor.as_mut().unwrap()["aside"].as_array_mut().unwrap() {
        aside["again_at"] = 0.into();
    }
    let mut found = bed.read().await;
    found.sort_by_key(|number| number.parse::<usize>().unwrap());
    assert_eq!(found, numbers(1..count));
}

#[tokio::test]
async fn a_service_that_is_away_is_not_taken_for_trouble_with_an_object() {
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "a\n");
    bed.put("in/b.log", "b\n");
    bed.s3.fail_next(1, Failure::StatusAfter(503, 7), When::Before, Which::Any);
    let fault = bed.page().await.unwrap_err();
    let wish = Some(Duration::from_secs(7));
    assert_eq!(fault.class, FaultClass::Transient { retry_after: wish }, "{fault}");
    bed.s3.fail_next(2, Failure::Status(503), When::Before, Which::Deliveries);
    let (found, fault) = bed.read_until_fault().await;
    assert!(found.is_empty() && matches!(fault.unwrap().class, FaultClass::Transient { .. }));
    assert_eq!(bed.read().await, ["a", "b"]);
    bed.put("in/c.log", "c\n");
    bed.s3.fail_next(1, Failure::Torn, When::Before, Which::Deliveries);
    bed.s3.fail_next(1, Failure::Reset, When::Before, Which::Deliveries);
    assert!(bed.read_until_fault().await.1.is_some());
    assert_eq!(bed.read().await, ["c"]);
    // Something before the service answers in its place.
    bed.put("in/c2.log", "c2\n");
    bed.s3.fail_next(2, Failure::Status(404), When::Before, Which::Deliveries);
    let (found, fault) = bed.read_until_fault().await;
    assert!(found.is_empty() && matches!(fault.unwrap().class, FaultClass::Transient { .. }));
    assert_eq!(bed.read().await, ["c2"]);
    // This one always fails, and the service answers otherwise.
    bed.put("in/d.log", "d\n");
    bed.put("in/e.log", "e\n");
    bed.s3.bucket().failing.insert("in/d.log".to_owned());
    let mut found = Vec::new();
    while found.is_empty() {
        let (more, fault) = bed.read_until_fault().await;
        assert!(fault.is_some());
        found = more;
    }
    assert_eq!(found, ["e"]);
    bed.s3.down();
    let fault = bed.page().await.unwrap_err();
    assert!(matches!(fault.class, FaultClass::Transient { .. }), "{fault}");
}

#[tokio::test]
async fn what_a_person_must_mend_is_said_in_words() {
    let mut bed = Bed::new().await;
    assert!(bed.objects.check().await.is_ok());
    bed.s3.bucket().is_listing_denied = true;
    for fault in [bed.objects.check().await.unwrap_err(), bed.page().await.unwrap_err()] {
        assert_eq!(fault.class, FaultClass::Broken, "{fault}");
        assert!(fault.to_string().contains("expected credentials"), "{fault}");
    }
    bed.s3.bucket().is_listing_denied = false;
    bed.s3.bucket().is_gone = true;
    let fault = bed.page().await.unwrap_err();
    assert!(fault.class == FaultClass::Broken && fault.to_string().contains("found none"), "{fault}");
    bed.s3.bucket().is_gone = false;
    bed.put("in/a//b.log", "1\n");
    let fault = bed.page().await.unwrap_err();
    assert!(fault.class == FaultClass::Broken && fault.to_string().contains("in/a//b.log"), "{fault}");
    bed.s3.bucket().remove("in/a//b.log");
    let wrong: [fn(&mut Config); 3] = [
        |config| config.region = Some("us-west-2".to_owned()),
        |config| (config.region, config.secret_access_key) = (Some(REGION.to_owned()), Secret::new("another")),
        |config| config.access_key_id = Some("AKIAANOTHER".to_owned()),
    ];
    for change in wrong {
        bed.go_on(change);
        let fault = bed.page().await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Broken, "{fault}");
        assert!(!fault.to_string().contains("another"), "no secret: {fault}");
    }
}

#[tokio::test]
async fn a_page_that_nobody_wants_any_more_ends_at_once() {
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "1\n");
    bed.s3.fail_next(1, Failure::Hang, When::Before, Which::Deliveries);
    let s3 = &bed.s3;
    let asked = poll::until("it is asked for", Duration::from_secs(60), async || (!s3.read().is_empty()).then_some(()));
    tokio::select! {
        page = bed.objects.page(None) => panic!("nothing answers: {page:?}"),
        asked = asked => asked.unwrap(),
    }
    let free = poll::until("the thread gives up", Duration::from_secs(15), async || {
        bed.objects.reader.try_lock().ok().map(|_| ())
    });
    free.await.unwrap();
    assert_eq!(bed.read().await, ["1"]);
}
