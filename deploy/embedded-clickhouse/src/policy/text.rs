//! Cuts the engine's own spelling of a statement into tokens. That spelling has no comments and no here-documents, and
//! it escapes quotes with a backslash. `front::statement` reads what clients write.

use crate::engine::Exception;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword, a name without quotes, or a number.
    Word(String),
    /// A name in quotes.
    Name(String),
    /// A text in single quotes.
    Text(String),
    Sign(char),
}

/// A statement's tokens. Each knows whether a blank stands before it.
#[derive(Debug)]
pub(super) struct Tokens {
    tokens: Vec<(Token, bool)>,
}

impl Tokens {
    pub(super) fn read(canonical: &str) -> Result<Self, Exception> {
        let mut tokens = Vec::new();
        let mut spaced = true;
        let mut rest = canonical;
        while let Some(first) = rest.chars().next() {
            if first.is_whitespace() {
                spaced = true;
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let (token, length) = match first {
                '\'' | '`' | '"' => quoted(rest, first)?,
                _ if is_word(first) => word(rest),
                sign => (Token::Sign(sign), sign.len_utf8()),
            };
            tokens.push((token, spaced));
            spaced = false;
            rest = &rest[length..];
        }
        Ok(Self { tokens })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at).map(|(token, _)| token)
    }

    /// Whether `keyword` stands at `at`. Keywords are in upper case and have no quotes.
    pub(super) fn is_word(&self, at: usize, keyword: &str) -> bool {
        matches!(self.get(at), Some(Token::Word(word)) if word == keyword)
    }

    pub(super) fn is_sign(&self, at: usize, sign: char) -> bool {
        matches!(self.get(at), Some(Token::Sign(found)) if *found == sign)
    }

    /// The name at `at`, with quotes or without. Without quotes it may also be a keyword.
    pub(super) fn name(&self, at: usize) -> Option<&str> {
        match self.get(at)? {
            Token::Word(name) | Token::Name(name) => Some(name),
            Token::Text(_) | Token::Sign(_) => None,
        }
    }

    /// The name that is called at `at`: an opening parenthesis follows without a blank.
    pub(super) fn call(&self, at: usize) -> Option<&str> {
        let (next, spaced) = self.tokens.get(at + 1)?;
        (*next == Token::Sign('(') && !spaced).then(|| self.name(at))?
    }

    /// The place behind the bracket that closes the one at `open`. It is the end if none closes it.
    pub(super) fn behind(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for at in open..self.len() {
            match self.get(at) {
                Some(Token::Sign('(' | '[' | '{')) => depth += 1,
                Some(Token::Sign(')' | ']' | '}')) => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return at + 1;
            }
        }
        self.len()
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// A name or a number: `events`, `1.5e-10`.
fn word(text: &str) -> (Token, usize) {
    let numeric = text.starts_with(|char: char| char.is_ascii_digit());
    let mut previous = ' ';
    let continues = |char: char| {
        let exponent = numeric && matches!(char, '+' | '-') && matches!(previous, 'e' | 'E');
        previous = char;
        is_word(char) || exponent || (numeric && char == '.')
    };
    let mut continues = continues;
    let length = text.find(|char: char| !continues(char)).unwrap_or(text.len());
    (Token::Word(text[..length].to_owned()), length)
}

fn quoted(text: &str, quote: char) -> Result<(Token, usize), Exception> {
    let mut content = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => content.extend(chars.next().map(|(_, char)| char)),
            char if char == quote => {
                let token = if quote == '\'' { Token::Text(content) } else { Token::Name(content) };
                return Ok((token, at + 1));
            }
            char => content.push(char),
        }
    }
    Err(super::denied("expected a statement whose quotes are closed in the engine's own spelling of it"))
}

#[cfg(test)]
mod tests {
    use super::{Token, Tokens};

    #[test]
    fn calls_names_and_texts_are_told_apart() {
        let tokens = Tokens::read(r"SELECT f('it\'s'), `a b`.`c`, x IN (1.5e-10), -(-1) AS `q\`w`").unwrap();
        assert_eq!((tokens.call(1), tokens.get(3)), (Some("f"), Some(&Token::Text("it's".into()))));
        let words: Vec<&str> = (0..tokens.len()).filter_map(|at| tokens.name(at)).collect();
        assert_eq!(words, ["SELECT", "f", "a b", "c", "x", "IN", "1.5e-10", "1", "AS", "q`w"]);
        let calls: Vec<&str> = (0..tokens.len()).filter_map(|at| tokens.call(at)).collect();
        assert_eq!(calls, ["f"], "a blank before the parenthesis makes a keyword of the word");
        assert!(Tokens::read("SELECT 'open").is_err());
    }
}
