//! Finds every text and number of a body, and where it lies.

/// A text or a number of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scalar<'a> {
    /// The key it stands under. Items of an array have the key of the array.
    pub(super) key: &'a str,
    /// The number of the nearest object around it.
    pub(super) object: usize,
    /// Where `text` begins.
    pub(super) at: usize,
    /// A number's digits, or what stands between a text's quotes, still escaped.
    pub(super) text: &'a str,
    pub(super) is_number: bool,
}

struct Level<'a> {
    object: usize,
    key: &'a str,
    is_object: bool,
    wants_key: bool,
}

/// The texts and numbers of `json`, which must be valid.
pub(super) fn scalars(json: &str) -> Vec<Scalar<'_>> {
    let bytes = json.as_bytes();
    let mut found = Vec::new();
    let mut levels = vec![Level { object: 0, key: "", is_object: false, wants_key: false }];
    let (mut at, mut objects) = (0, 0);
    while at < bytes.len() {
        let Some(level) = levels.last_mut() else { break };
        let (object, key) = (level.object, level.key);
        match bytes[at] {
            b'{' => {
                objects += 1;
                levels.push(Level { object: objects, key: "", is_object: true, wants_key: true });
            }
            b'[' => levels.push(Level { object, key, is_object: false, wants_key: false }),
            b'}' | b']' => {
                levels.pop();
            }
            b',' => level.wants_key = level.is_object,
            b'"' => {
                let start = at + 1;
                let end = end_of_text(bytes, start);
                let text = &json[start..end];
                if level.wants_key {
                    (level.key, level.wants_key) = (text, false);
                } else {
                    found.push(Scalar { key, object, at: start, text, is_number: false });
                }
                at = end;
            }
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..].iter().take_while(|byte| is_of_number(**byte)).count();
                found.push(Scalar { key, object, at, text: &json[at..at + length], is_number: true });
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Where the quote is that ends the text from `start` on.
fn end_of_text(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

const fn is_of_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_are_found_where_they_lie() {
        let json = r#"{"a":1,"b":{"c":"x\"y","d":[true,"e",{"f":-2.5}]},"g":"\\"}"#;
        let found: Vec<_> = scalars(json).iter().map(|it| (it.key, it.object, it.text, it.is_number)).collect();
        let wanted = [
            ("a", 1, "1", true),
            ("c", 2, r#"x\"y"#, false),
            ("d", 2, "e", false),
            ("f", 3, "-2.5", true),
            ("g", 1, r"\\", false),
        ];
        assert_eq!(found, wanted);
        assert!(scalars(json).iter().all(|it| &json[it.at..it.at + it.text.len()] == it.text));
    }
}
