//! Services that do not list as their protocol says.

use headrace_runtime::fault::FaultClass;
use headrace_tests::standin::s3::Listing;

use super::*;

/// Looks twice, and returns what is told the second time.
async fn told(bed: &mut Bed) -> String {
    let mut told = String::new();
    for _ in 0..2 {
        let (found, fault) = bed.read_until_fault().await;
        assert!(found.is_empty(), "{found:?}");
        let fault = fault.unwrap();
        assert_eq!(fault.class, FaultClass::Broken, "{fault}");
        told = fault.to_string();
    }
    told
}

#[tokio::test]
async fn a_listing_that_is_not_one_is_told_of_and_nothing_is_read_by_it() {
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "a\n");
    bed.put("in/b.log", "b\n");
    for (listing, words) in [
        (Listing::Unordered, "in their order, found `in/a.log` behind `in/b.log`"),
        (Listing::SameToken, "another continuation token"),
        (Listing::Endless, "a name in 100 parts of a listing one after another"),
        (Listing::Large, "an answer of at most 16777216 bytes"),
        (Listing::Page, "expected a listing"),
    ] {
        bed.s3.bucket().listing = listing;
        let told = told(&mut bed).await;
        assert!(told.contains(words) && told.contains("is the endpoint that of the bucket's service"), "{told}");
        assert!(bed.s3.listed() < 1_000, "no look goes on for ever");
    }
    bed.s3.bucket().listing = Listing::Sound;
    bed.s3.bucket().listed_sizes.insert("in/a.log".to_owned(), -1);
    let told = told(&mut bed).await;
    assert!(told.contains("expected what the service's protocol says"), "{told}");
    bed.s3.bucket().listed_sizes.clear();
    assert_eq!(bed.read().await, ["a", "b"]);
}

#[tokio::test]
async fn an_object_whose_size_is_another_than_the_listing_says_is_told_of_and_the_others_are_read() {
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "a\n");
    bed.put("in/b.log", "b\n");
    bed.s3.bucket().listed_sizes.insert("in/a.log".to_owned(), 1 << 50);
    let (mut found, mut told) = (Vec::new(), String::new());
    while found.is_empty() {
        let (more, fault) = bed.read_until_fault().await;
        (found, told) = (more, fault.unwrap().to_string());
        assert!(told.contains("in/a.log"), "{told}");
    }
    assert_eq!(found, ["b"]);
    assert!(told.contains("expected 1125899906842624 bytes, as it is listed with, found 2"), "{told}");
}

#[tokio::test]
async fn the_services_clock_says_how_far_back_to_look() {
    let mut bed = Bed::new().await;
    bed.settings.config.look_back_s = 60;
    bed.go_on(|config| config.full_listing_s = 0);
    // This machine's clock is ahead of the service's by more than the look-back.
    bed.s3.bucket().clock_ahead_s = -600;
    bed.put("in/b.log", "b\n");
    assert_eq!(bed.read().await, ["b"]);
    assert_eq!(bed.read().await, [""; 0]);
    bed.put("in/a.log", "late\n");
    assert_eq!(bed.read().await, ["late"]);
    assert_eq!(bed.read().await, [""; 0]);
}
