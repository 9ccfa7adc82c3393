//! "Did you mean …?": the nearest known word, and lists of words, for messages.

/// How many known words a message lists.
const LISTED_MAX: usize = 12;

/// How many characters of a user's word a message repeats.
const ECHO_MAX: usize = 64;

/// The known word nearest to `word`, if one is near enough to be meant.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = normal(word);
    let near = |known: &&'k str| {
        let distance = strsim::damerau_levenshtein(&plain, &normal(known));
        let length = plain.chars().count().max(known.chars().count());
        // As in rustc, a third of the characters may be wrong. A short word may always have one wrong.
        (distance <= (length / 3).max(1) && distance < length).then_some((distance, *known))
    };
    known.iter().filter_map(near).min().map(|(_, known)| known)
}

/// A word for comparison. Case makes no difference, nor do dashes and underscores.
pub(crate) fn normal(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// A word as repeated in a message.
pub(crate) fn echo(word: &str) -> String {
    let mut shown: String = word.chars().take(ECHO_MAX).flat_map(char::escape_debug).collect();
    if word.chars().nth(ECHO_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// Words listed in a message, bounded.
pub(crate) fn list(known: &[&str]) -> String {
    let mut listed: Vec<String> = known.iter().take(LISTED_MAX).map(|word| format!("`{word}`")).collect();
    if known.len() > LISTED_MAX {
        listed.push(format!("and {} more", known.len() - LISTED_MAX));
    }
    listed.join(", ")
}

/// The message for a key that its table does not know.
pub(crate) fn unknown_key(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(meant) => format!("unknown key; did you mean `{meant}`?"),
        None if known.is_empty() => "unknown key; no key is known here".to_owned(),
        None => format!("unknown key; known here: {}", list(known)),
    }
}

/// The message for a text that is not a word of an enum.
pub(crate) fn unknown_word(text: &str, words: &[&str]) -> String {
    let unknown = format!("unknown value {}; expected one of {}", echo(text), list(words));
    match nearest(text, words) {
        Some(meant) => format!("{unknown}; did you mean `{meant}`?"),
        None => unknown,
    }
}
