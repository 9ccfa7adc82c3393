//! What is asked of the call of some functions that a statement may call ([`super::functions`] says which): their
//! arguments must not lead out of the database, nor hide an expression that no statement shows.

use super::denied;
use super::text::{Token, Tokens};
use crate::engine::Exception;

/// Table functions that take a table's structure as a text. In that text, a column may have a default expression.
const STRUCTURED: [&str; 5] = ["format", "generaterandom", "input", "null", "values"];
/// Functions that take the name of an aggregate function as a text.
const NAMING: [&str; 2] = ["arrayreduce", "initializeaggregation"];
/// The words that begin a default expression.
const DEFAULTS: [&str; 4] = ["default", "alias", "materialized", "ephemeral"];

/// The call of a function.
pub(super) struct Call<'a> {
    pub(super) tokens: &'a Tokens,
    /// Where its name stands.
    pub(super) at: usize,
    pub(super) name: &'a str,
    /// Whether parameters of the statement may stand for names.
    pub(super) names_given: bool,
}

/// To which functions a condition applies, in lower case.
enum Applies {
    To(&'static [&'static str]),
    ToNamesBeginning(&'static [&'static str]),
}

type Condition = fn(&Call<'_>) -> Result<(), Exception>;

/// Every condition that applies must hold. The error is that of the first one that fails.
const CONDITIONS: [(Applies, Condition); 7] = [
    (Applies::To(&["format"]), has_allowed_format),
    (Applies::To(&["format"]), has_format_of_plain_values),
    (Applies::To(&["buffer"]), names_database_of_buffer),
    (Applies::ToNamesBeginning(&NAMING), names_function_in_quotes),
    (Applies::To(&["merge"]), names_database_of_merge),
    (Applies::To(&STRUCTURED), is_without_given_names),
    (Applies::To(&STRUCTURED), has_plain_arguments),
];

/// Judges a call of a function that is allowed.
pub(super) fn check(call: &Call<'_>) -> Result<(), Exception> {
    let name = call.name.to_ascii_lowercase();
    let applies = |applies: &Applies| match applies {
        Applies::To(functions) => functions.contains(&name.as_str()),
        Applies::ToNamesBeginning(beginnings) => beginnings.iter().any(|beginning| name.starts_with(beginning)),
    };
    CONDITIONS.iter().filter(|(to, _)| applies(to)).try_for_each(|(_, condition)| condition(call))
}

impl Call<'_> {
    /// Its first argument, or the beginning of it.
    fn first(&self) -> Option<&Token> {
        self.tokens.get(self.at + 2)
    }

    /// Whether the first argument is one token, and others follow.
    fn has_more(&self) -> bool {
        self.tokens.is_sign(self.at + 3, ',')
    }

    /// Whether it is a function of values. Table functions follow `FROM`, `JOIN`, `INTO FUNCTION`, `AS`, `TABLE` or a
    /// comma between tables. Only `format` is both.
    fn is_scalar(&self) -> bool {
        // The table function's first argument is a format's name. That of the function of values is a pattern, a text.
        self.name.eq_ignore_ascii_case("format")
            && matches!(self.first(), Some(Token::Text(pattern)) if pattern.contains('{'))
    }
}

fn has_allowed_format(call: &Call<'_>) -> Result<(), Exception> {
    match call.first() {
        Some(Token::Text(name) | Token::Word(name) | Token::Name(name)) => super::kinds::format(name),
        Some(Token::Sign(_)) | None => Ok(()),
    }
}

/// The engine would evaluate expressions in the function's data, and no statement shows those.
fn has_format_of_plain_values(call: &Call<'_>) -> Result<(), Exception> {
    match call.first() {
        Some(Token::Text(name) | Token::Word(name) | Token::Name(name)) if name.eq_ignore_ascii_case("values") => {
            Err(denied("expected a format of plain values in format(), found Values; use another, such as CSV"))
        }
        _ => Ok(()),
    }
}

fn names_database_of_buffer(call: &Call<'_>) -> Result<(), Exception> {
    let of_system = match call.first() {
        Some(Token::Text(database) | Token::Word(database) | Token::Name(database)) => {
            database.eq_ignore_ascii_case("system")
        }
        Some(Token::Sign(_)) | None => true,
    };
    if of_system || !call.has_more() {
        return Err(denied("expected Buffer() with the name of a database other than system, found another form"));
    }
    Ok(())
}

/// These functions run the aggregate function that they name, without a call of it in the statement.
fn names_function_in_quotes(call: &Call<'_>) -> Result<(), Exception> {
    match call.first() {
        Some(Token::Text(_)) => Ok(()),
        _ => Err(denied(&format!(
            "expected the name of a function in quotes as the first argument of {}, found something else",
            call.name
        ))),
    }
}

/// The engine checks no right for the tables behind `merge`, and reading `system.models` starts another program.
fn names_database_of_merge(call: &Call<'_>) -> Result<(), Exception> {
    match call.first() {
        Some(Token::Text(database)) if database != "system" && call.has_more() => Ok(()),
        _ => Err(denied(
            "expected merge() with the name of a database other than system and a pattern, found another form",
        )),
    }
}

fn is_without_given_names(call: &Call<'_>) -> Result<(), Exception> {
    if call.names_given && !call.is_scalar() {
        return Err(denied(&format!(
            "expected no parameters that are names beside {}(), found one; write it out",
            call.name
        )));
    }
    Ok(())
}

/// We cannot read a structure that an expression makes, so only written-out arguments pass.
fn has_plain_arguments(call: &Call<'_>) -> Result<(), Exception> {
    let Call { tokens, at, name, .. } = *call;
    let open = at + 1;
    let is_format = name.eq_ignore_ascii_case("format");
    for inside in open + 1..tokens.behind(open) {
        let plain = match tokens.get(inside) {
            Some(Token::Text(text)) => !DEFAULTS.iter().any(|word| text.to_ascii_lowercase().contains(word)),
            Some(Token::Sign(sign)) => matches!(sign, '(' | ')' | '[' | ']' | ',' | '-' | '+'),
            Some(Token::Word(word)) => {
                is_value(word) || (inside == open + 1 && is_format && is_own_word(tokens, inside, word))
            }
            Some(Token::Name(_)) | None => false,
        };
        // `format` is also a function that formats a text. Its arguments may be anything.
        if !plain && !call.is_scalar() {
            return Err(denied(&format!(
                "expected written-out arguments of {name} without DEFAULT, ALIAS, MATERIALIZED or EPHEMERAL, found \
                 something else; put the values into a table, or select them"
            )));
        }
    }
    Ok(())
}

/// Whether `word` is a number or `NULL`. Any other word may be an alias, and the engine puts the alias's value there.
fn is_value(word: &str) -> bool {
    // The engine quotes names that begin with a digit, and the name `NULL`. It does not quote `inf` and `true`.
    word.starts_with(|first: char| first.is_ascii_digit()) || word == "NULL"
}

/// Whether `word`, a format's name at `at`, stands nowhere else. Then it is no alias.
fn is_own_word(tokens: &Tokens, at: usize, word: &str) -> bool {
    let same = |other: usize| {
        other != at
            && tokens.name(other).is_some_and(|name| name.eq_ignore_ascii_case(word))
            && !tokens.call(other.saturating_sub(2)).is_some_and(|name| name.eq_ignore_ascii_case("format"))
    };
    tokens.call(at).is_none() && !(0..tokens.len()).any(same)
}
