//! Why a rule matched, as bounded `field=value` pairs.

use rsigma_eval::FieldMatch;
use serde_json::Value;

/// Pairs per match. Beyond these a person opens the event itself.
const PAIRS_MAX: usize = 8;
/// Characters per value: enough for names and hashes, too few for a body to travel twice.
const VALUE_CHARS_MAX: usize = 200;

/// The pairs that made a rule match, sorted: the engine tells them in no stable order.
pub(crate) fn pairs(fields: &[FieldMatch]) -> Vec<String> {
    let mut pairs: Vec<String> = fields.iter().map(pair).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs.truncate(PAIRS_MAX);
    pairs
}

fn pair(found: &FieldMatch) -> String {
    let value = match &found.value {
        Value::String(text) => shortened(text),
        other => shortened(&other.to_string()),
    };
    format!("{}={value}", found.field)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pairs_are_sorted_and_told_once() {
        let found = [
            FieldMatch::new("repo", json!("octo/app")),
            FieldMatch::new("public_repo", json!(true)),
            FieldMatch::new("repo", json!("octo/app")),
            FieldMatch::new("user", json!(null)),
        ];
        assert_eq!(pairs(&found), ["public_repo=true", "repo=octo/app", "user=null"]);
    }

    #[test]
    fn count_and_length_are_bounded() {
        let found: Vec<_> = (0..50).map(|field| FieldMatch::new(format!("f{field}"), json!("é".repeat(500)))).collect();
        let pairs = pairs(&found);
        assert_eq!(pairs.len(), PAIRS_MAX);
        assert!(pairs.iter().all(|pair| pair.chars().count() <= VALUE_CHARS_MAX + 5), "{pairs:?}");
    }
}
