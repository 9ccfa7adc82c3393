//! How matches become a risk from 0 to 100, with a reason for each point.
//!
//! The model adds. The worst match gives its level's points, further matches add a little each, and the asset that was
//! touched moves the sum. Without a match there is no risk, however much an asset matters. Who acted changes nothing: a
//! rebate for bots would be a rebate for whoever steals a bot's token, and learning what is usual for an actor is left
//! to correlation. `rules/README.md` has the table.

use headrace_schemas::event::{Assessment, Criticality, Reason, RuleMatch, Severity};

/// How many matches an assessment carries: the worst ones. A set of careless rules must not make an event larger than
/// the broker accepts.
const MATCHES_MAX: usize = 32;
/// The most that all further matches add together: the smallest step between two levels, so that no number of rules
/// outranks one rule of the next level.
const FURTHER_MAX: i32 = 15;
/// The highest risk.
const RISK_MAX: i32 = 100;
/// The lowest risk of an event that a rule matched, so that 0 means no match.
const RISK_MIN: i32 = 1;

/// Weighs the rules that matched.
pub(crate) fn assess(mut matches: Vec<RuleMatch>, criticality: Option<Criticality>) -> Assessment {
    // The engine reports in order of rules; people and receivers want the worst first.
    matches.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.rule.cmp(&b.rule)));
    let Some(worst) = matches.first() else { return Assessment::default() };
    let severity = worst.severity;

    let mut reasons = Vec::with_capacity(matches.len().min(MATCHES_MAX) + 2);
    reasons.push(because(worst, points(severity), "matched"));
    let mut left = FURTHER_MAX;
    for further in matches.iter().skip(1).take(MATCHES_MAX - 1) {
        let added = further_points(further.severity).min(left);
        left -= added;
        reasons.push(because(further, added, "matched as well"));
    }
    if let Some(omitted) = matches.len().checked_sub(MATCHES_MAX).filter(|omitted| *omitted > 0) {
        matches.truncate(MATCHES_MAX);
        reasons.push(reason("rules:omitted", 0, format!("{omitted} further rules matched and are left out.")));
    }
    if let Some(criticality) = criticality.filter(|criticality| asset_points(*criticality) != 0) {
        let text = format!("The criticality of the asset is {}.", criticality.as_str());
        reasons.push(reason("asset:criticality", asset_points(criticality), text));
    }

    let sum: i32 = reasons.iter().map(|reason| reason.points).sum();
    let risk = sum.clamp(RISK_MIN, RISK_MAX);
    if risk < sum {
        reasons.push(reason("cap", risk - sum, format!("The highest risk is {RISK_MAX}.")));
    } else if risk > sum {
        reasons.push(reason("floor", risk - sum, format!("The lowest risk of a match is {RISK_MIN}.")));
    }
    Assessment { risk, severity, matches, reasons }
}

const fn points(level: Severity) -> i32 {
    match level {
        Severity::None => 0,
        Severity::Informational => 5,
        Severity::Low => 20,
        Severity::Medium => 40,
        Severity::High => 65,
        Severity::Critical => 85,
    }
}

const fn further_points(level: Severity) -> i32 {
    match level {
        Severity::None => 0,
        Severity::Informational => 1,
        Severity::Low => 2,
        Severity::Medium => 4,
        Severity::High => 6,
        Severity::Critical => 8,
    }
}

const fn asset_points(criticality: Criticality) -> i32 {
    match criticality {
        Criticality::Low => -10,
        Criticality::Medium => 0,
        Criticality::High => 10,
        Criticality::Critical => 15,
    }
}

fn because(rule: &RuleMatch, points: i32, matched: &str) -> Reason {
    let RuleMatch { rule, title, severity, .. } = rule;
    reason(&format!("rule:{rule}"), points, format!("The rule \"{title}\" ({}) {matched}.", severity.as_str()))
}

fn reason(code: &str, points: i32, text: String) -> Reason {
    Reason { code: code.to_owned(), points, text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop, prop_oneof, proptest};

    use super::*;

    fn matched(severity: Severity) -> RuleMatch {
        RuleMatch {
            rule: format!("r-{}", severity.as_str()),
            title: "Thing done".into(),
            severity,
            techniques: vec![],
            controls: vec![],
            evidence: vec![],
        }
    }

    fn told(assessment: &Assessment) -> Vec<(&str, i32)> {
        assessment.reasons.iter().map(|reason| (reason.code.as_str(), reason.points)).collect()
    }

    #[test]
    fn nothing_matched_is_no_risk_even_on_a_critical_asset() {
        assert_eq!(assess(vec![], Some(Criticality::Critical)), Assessment::default());
    }

    #[test]
    fn the_worst_match_counts_whole_and_others_a_little() {
        let assessment = assess(vec![matched(Severity::Low), matched(Severity::High)], Some(Criticality::High));
        assert_eq!((assessment.risk, assessment.severity), (77, Severity::High));
        assert_eq!(told(&assessment), [("rule:r-high", 65), ("rule:r-low", 2), ("asset:criticality", 10)]);
        assert_eq!(assessment.reasons[0].text, "The rule \"Thing done\" (high) matched.");
        assert_eq!(assessment.matches[0].severity, Severity::High);
    }

    #[test]
    fn the_ends_of_the_scale_are_told() {
        let assessment = assess(vec![matched(Severity::Critical); 3], Some(Criticality::Critical));
        assert_eq!((assessment.risk, told(&assessment).last()), (100, Some(&("cap", -15))));
        let assessment = assess(vec![matched(Severity::Informational)], Some(Criticality::Low));
        assert_eq!((assessment.risk, told(&assessment).last()), (1, Some(&("floor", 6))));
    }

    #[test]
    fn a_crowd_of_matches_is_bounded() {
        let assessment = assess(vec![matched(Severity::Low); 500], None);
        assert_eq!((assessment.risk, assessment.matches.len()), (35, MATCHES_MAX));
        assert_eq!(assessment.reasons.last().unwrap().text, "468 further rules matched and are left out.");
    }

    fn criticality() -> impl Strategy<Value = Option<Criticality>> {
        prop::option::of(prop_oneof![
            Just(Criticality::Low),
            Just(Criticality::Medium),
            Just(Criticality::High),
            Just(Criticality::Critical)
        ])
    }

    proptest! {
        #[test]
        fn the_points_of_all_reasons_are_the_risk(
            levels in prop::collection::vec(prop::sample::select(&Severity::MATCHED[..]), 0..60),
            criticality in criticality(),
        ) {
            let assessment = assess(levels.iter().copied().map(matched).collect(), criticality);
            assert_eq!(assessment.reasons.iter().map(|reason| reason.points).sum::<i32>(), assessment.risk);
            assert_eq!(assessment.severity, levels.iter().copied().max().unwrap_or_default());
            assert_eq!(assessment.risk == 0, levels.is_empty());
            assert!((0..=RISK_MAX).contains(&assessment.risk));
        }

        #[test]
        fn one_more_match_never_lowers_the_risk(
            levels in prop::collection::vec(prop::sample::select(&Severity::MATCHED[..]), 1..60),
            criticality in criticality(),
        ) {
            let matches: Vec<_> = levels.into_iter().map(matched).collect();
            let fewer = assess(matches[1..].to_vec(), criticality).risk;
            assert!(assess(matches, criticality).risk >= fewer);
        }
    }
}
