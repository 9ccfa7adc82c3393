//! Reads just enough of a statement's text to know how to run it: whether data follows an `INSERT`, where that data
//! begins, and which format a query names. It must never decide what a statement means or whether it may run. The
//! engine's parser and the policy see every statement and decide that.

use memchr::memmem;

/// How to read a request's text. Offsets are bytes from its start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// All of the text is the statement.
    Plain,
    /// An `INSERT` with data: the statement up to `end`, then the data from `data`, in `format`.
    Insert { end: usize, format: String, data: usize },
    /// The text so far is too short to tell.
    Undecided,
}

/// How much of a request's text we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// More may follow.
    Beginning,
    /// Nothing follows.
    Whole,
}

/// What the text of a whole statement reveals.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    /// The first word in upper case, `(` for a parenthesis, empty if there is none.
    pub(super) first: String,
    /// The name after the last top-level `FORMAT`.
    pub(super) format: Option<String>,
    /// The output has more than rows, or wraps the rows, so its blocks cannot be joined.
    pub(super) framed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Sign(u8),
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

/// Decides whether a request whose text begins with `text` is an `INSERT` with data behind it.
pub(super) fn head(text: &[u8], extent: Extent) -> Head {
    let complete = extent == Extent::Whole;
    let mut tokens = Tokens { text, at: 0 };
    let mut depth = 0_usize;
    let mut previous = None;
    let undecided = if complete { Head::Plain } else { Head::Undecided };
    loop {
        let token = match tokens.next() {
            Ok(Some(token)) if complete || token.end < text.len() => token,
            Ok(_) | Err(Unfinished) => return undecided,
        };
        let word = tokens.upper(token);
        if previous.is_none() && word != "INSERT" {
            return Head::Plain;
        }
        match token.kind {
            Kind::Sign(b'(') => depth += 1,
            Kind::Sign(b')') => depth = depth.saturating_sub(1),
            // `INSERT INTO t (SELECT …)`. In any other insert, words in parentheses are column names.
            Kind::Word if depth > 0 => {
                if previous.as_deref() == Some("(") && matches!(word.as_str(), "SELECT" | "WITH") {
                    return Head::Plain;
                }
            }
            Kind::Word if is_name_position(previous.as_deref()) && word != "TABLE" && word != "FUNCTION" => {}
            Kind::Word => match word.as_str() {
                "SELECT" | "WITH" | "WATCH" | "FROM" => return Head::Plain,
                "VALUES" => return Head::Insert { end: token.start, format: "Values".into(), data: token.end },
                "FORMAT" => return after_format(&mut tokens, token.start, extent),
                _ => {}
            },
            Kind::Sign(_) | Kind::Quoted => {}
        }
        previous = Some(word);
    }
}

/// Whether the next word names a table, even if it is `format` or `values`.
fn is_name_position(previous: Option<&str>) -> bool {
    matches!(previous, Some("INTO" | "TABLE" | "FUNCTION" | "."))
}

/// ClickHouse's rule: data begins after the blanks that follow the format's name, and after one line break if there is
/// one.
fn after_format(tokens: &mut Tokens<'_>, end: usize, extent: Extent) -> Head {
    let complete = extent == Extent::Whole;
    let text = tokens.text;
    let name = match tokens.next() {
        Ok(Some(token)) if token.kind == Kind::Word && (complete || token.end < text.len()) => token,
        Ok(Some(token)) if token.kind != Kind::Word => return Head::Plain,
        _ => return if complete { Head::Plain } else { Head::Undecided },
    };
    let mut data = name.end;
    while matches!(text.get(data), Some(b' ' | b'\t' | 0x0c)) {
        data += 1;
    }
    if text.get(data) == Some(&b';') {
        // The engine explains what is wrong with this.
        return Head::Plain;
    }
    if text.get(data) == Some(&b'\r') {
        data += 1;
    }
    match text.get(data) {
        Some(b'\n') => data += 1,
        Some(_) => {}
        None if complete => {}
        None => return Head::Undecided,
    }
    let format = String::from_utf8_lossy(&text[name.start..name.end]).into_owned();
    Head::Insert { end, format, data }
}

/// Reads the outline of a whole statement.
pub(super) fn outline(text: &[u8]) -> Outline {
    let mut outline = Outline::default();
    let mut tokens = Tokens { text, at: 0 };
    let mut depth = 0_usize;
    let mut previous = String::new();
    while let Ok(Some(token)) = tokens.next() {
        let word = tokens.upper(token);
        if outline.first.is_empty() {
            outline.first.clone_from(&word);
        }
        match token.kind {
            Kind::Sign(b'(') => depth += 1,
            Kind::Sign(b')') => depth = depth.saturating_sub(1),
            Kind::Word => match (previous.as_str(), word.as_str()) {
                ("FORMAT", _) if depth == 0 => {
                    outline.format = Some(String::from_utf8_lossy(&text[token.start..token.end]).into_owned());
                }
                ("WITH", "TOTALS") => outline.framed = true,
                (_, "EXTREMES" | "OUTPUT_FORMAT_JSON_ARRAY_OF_ROWS") => outline.framed = true,
                _ => {}
            },
            Kind::Sign(_) | Kind::Quoted => {}
        }
        previous = word;
    }
    outline
}

/// The text breaks off inside a string, a quoted name or a comment.
struct Unfinished;

struct Tokens<'text> {
    text: &'text [u8],
    at: usize,
}

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>, Unfinished> {
        self.skip_blanks()?;
        let start = self.at;
        let Some(&first) = self.text.get(start) else { return Ok(None) };
        let kind = match first {
            b'\'' | b'"' | b'`' => {
                self.at = quoted_end(self.text, start).ok_or(Unfinished)?;
                Kind::Quoted
            }
            b'$' if let Some(end) = heredoc_end(self.text, start)? => {
                self.at = end;
                Kind::Quoted
            }
            _ if is_word(first) => {
                self.at += self.text[start..].iter().take_while(|&&byte| is_word(byte)).count();
                Kind::Word
            }
            sign => {
                self.at += 1;
                Kind::Sign(sign)
            }
        };
        Ok(Some(Token { kind, start, end: self.at }))
    }

    /// The token's text: a word in upper case, a sign as it is, empty for quoted text.
    fn upper(&self, token: Token) -> String {
        match token.kind {
            Kind::Quoted => String::new(),
            Kind::Word | Kind::Sign(_) => {
                String::from_utf8_lossy(&self.text[token.start..token.end]).to_ascii_uppercase()
            }
        }
    }

    fn skip_blanks(&mut self) -> Result<(), Unfinished> {
        loop {
            let rest = &self.text[self.at..];
            let skipped = match rest {
                [byte, ..] if byte.is_ascii_whitespace() => 1,
                [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => match rest.iter().position(|&byte| byte == b'\n') {
                    Some(end) => end + 1,
                    None => rest.len(),
                },
                [b'/', b'*', ..] => memmem::find(rest, b"*/").ok_or(Unfinished)? + 2,
                _ => return Ok(()),
            };
            self.at += skipped;
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The end of quoted text. A backslash escapes, and a doubled quote stands for itself.
fn quoted_end(text: &[u8], start: usize) -> Option<usize> {
    let quote = text[start];
    let mut at = start + 1;
    loop {
        match *text.get(at)? {
            b'\\' => at += 2,
            byte if byte == quote && text.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// The end of `$tag$…$tag$`. `None` if the dollar sign opens nothing.
fn heredoc_end(text: &[u8], start: usize) -> Result<Option<usize>, Unfinished> {
    let name = text[start + 1..].iter().take_while(|&&byte| is_word(byte)).count();
    let tag_end = start + 1 + name;
    if text.get(tag_end) != Some(&b'$') {
        return Ok(None);
    }
    let tag = &text[start..=tag_end];
    let body = tag_end + 1;
    memmem::find(&text[body..], tag).map(|at| Some(body + at + tag.len())).ok_or(Unfinished)
}

#[cfg(test)]
mod tests {
    use super::{Extent, Head, head, outline};

    fn check(text: &str, expected_head: &str, format: &str, data: &str) {
        let expected = Head::Insert { end: expected_head.len(), format: format.into(), data: text.len() - data.len() };
        assert_eq!(head(text.as_bytes(), Extent::Whole), expected, "{text}");
        // The beginning of a text gives the same decision, or none yet.
        for cut in 0..text.len() {
            let early = head(&text.as_bytes()[..cut], Extent::Beginning);
            assert!(early == expected || early == Head::Undecided, "{text} cut at {cut}: {early:?}");
        }
    }

    #[test]
    fn data_of_an_insert_begin_after_its_format() {
        check("INSERT INTO t FORMAT CSV\n1,2", "INSERT INTO t ", "CSV", "1,2");
        check("INSERT INTO t FORMAT CSV \r\n1,2", "INSERT INTO t ", "CSV", "1,2");
        check("INSERT INTO t FORMAT JSONEachRow {\"a\":1}", "INSERT INTO t ", "JSONEachRow", "{\"a\":1}");
        check(
            "insert into `a b`.t(format, values) format Native\n\n",
            "insert into `a b`.t(format, values) ",
            "Native",
            "\n",
        );
        check("INSERT INTO t VALUES (1)", "INSERT INTO t ", "Values", " (1)");
        check("INSERT INTO values VALUES(1)", "INSERT INTO values ", "Values", "(1)");
        check("INSERT INTO TABLE d.format FORMAT CSV\n", "INSERT INTO TABLE d.format ", "CSV", "");
        check(
            "/* FORMAT X */ INSERT INTO t -- FORMAT Y\n SETTINGS a='FORMAT Z' FORMAT CSV\nFORMAT",
            "/* FORMAT X */ INSERT INTO t -- FORMAT Y\n SETTINGS a='FORMAT Z' ",
            "CSV",
            "FORMAT",
        );
        check(
            "INSERT INTO FUNCTION file('a', 'CSV') FORMAT CSV\n1",
            "INSERT INTO FUNCTION file('a', 'CSV') ",
            "CSV",
            "1",
        );
    }

    #[test]
    fn statements_without_data_are_plain() {
        for text in [
            "SELECT 1 FORMAT CSV",
            "INSERT INTO t SELECT 1 FORMAT CSV",
            "INSERT INTO t (SELECT 1)",
            "INSERT INTO t FROM INFILE 'x' FORMAT CSV",
            "INSERT INTO t WITH 1 AS x SELECT x",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "INSERT INTO t FORMAT CSV;",
            "INSERT INTO t",
            "'unfinished",
            "",
        ] {
            assert_eq!(head(text.as_bytes(), Extent::Whole), Head::Plain, "{text}");
        }
    }

    #[test]
    fn an_outline_names_the_format() {
        let select = outline(b"SELECT 'FORMAT X', (SELECT 1 FORMAT Y) FROM t FORMAT JSON SETTINGS a=1");
        assert_eq!((select.first.as_str(), select.format.as_deref()), ("SELECT", Some("JSON")));
        assert!(!select.framed);
        assert!(outline(b"SELECT 1 GROUP BY 2 WITH TOTALS").framed);
        assert_eq!(outline(b"(SELECT 1)").first, "(");
    }
}
