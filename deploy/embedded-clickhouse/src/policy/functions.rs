//! The functions, table functions, types and codecs that a statement may call. Whatever is on no list is refused.
//! [`super::conditions`] says what is asked of some calls besides.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::conditions::{self, Call};
use super::denied;
use super::text::{Token, Tokens};
use crate::engine::{Exception, Parameters};

/// Functions that read a file of the server without asking the engine's access control.
const UNGUARDED: [&str; 2] = ["file", "catboostevaluate"];

/// Table functions that read tables of this server, or make rows from their arguments.
const TABLE_FUNCTIONS: [&str; 15] = [
    "format",
    "generaterandom",
    "generateseries",
    "generate_series",
    "input",
    "merge",
    "null",
    "numbers",
    "numbers_mt",
    "primes",
    "values",
    "view",
    "viewifpermitted",
    "zeros",
    "zeros_mt",
];

/// This aggregate function is on no list, because it writes in any format.
const FORMATTING: &str = "groupformat";

/// Other words before a parenthesis: types, codecs, kinds of indices and statistics, words of the grammar.
const OTHER: [&str; 73] = [
    "aggregatefunction",
    "array",
    "bool",
    "char",
    "date32",
    "datetime",
    "datetime32",
    "datetime64",
    "decimal",
    "decimal128",
    "decimal256",
    "decimal32",
    "decimal64",
    "dynamic",
    "enum",
    "enum16",
    "enum8",
    "fixedstring",
    "json",
    "lowcardinality",
    "map",
    "nested",
    "nullable",
    "object",
    "qbit",
    "simpleaggregatefunction",
    "string",
    "time64",
    "tuple",
    "variant",
    "varchar",
    "float",
    "double",
    "int",
    "tinyint",
    "smallint",
    "bigint",
    "numeric",
    "binary",
    "alp",
    "delta",
    "doubledelta",
    "fpc",
    "gcd",
    "gorilla",
    "lz4",
    "lz4hc",
    "none",
    "t64",
    "zstd",
    "codec",
    "default",
    "bloom_filter",
    "minmax",
    "ngrambf_v1",
    "set",
    "sparse_grams",
    "text",
    "tokenbf_v1",
    "vector_similarity",
    "statistics",
    "countmin",
    "tdigest",
    "uniq",
    "columns",
    "ttl",
    "rollup",
    "cube",
    "sets",
    "skip",
    "regexp",
    "settings",
    "projection",
];

static FUNCTIONS: LazyLock<HashSet<&str>> = LazyLock::new(|| super::settings::listed(include_str!("functions.txt")));

/// The suffixes that an aggregate function's name may have.
const COMBINATORS: [&str; 15] = [
    "argmax",
    "argmin",
    "array",
    "distinct",
    "foreach",
    "if",
    "map",
    "merge",
    "null",
    "ordefault",
    "ornull",
    "resample",
    "simplestate",
    "state",
    "tuple",
];
/// The type of a parameter that stands for a name. The engine knows it by this spelling alone.
const IDENTIFIER: &[u8] = b"Identifier";
/// No function's name is longer, in bytes. We would search a longer name for combinators over and over.
const NAME_BYTES_MAX: usize = 128;

/// Whether a statement may call `name`.
fn allowed(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let engine = || super::kinds::ENGINES.iter().any(|engine| engine.eq_ignore_ascii_case(&name));
    TABLE_FUNCTIONS.contains(&name.as_str()) || OTHER.contains(&name.as_str()) || engine() || is_function(&name)
}

fn is_function(name: &str) -> bool {
    if name.len() > NAME_BYTES_MAX {
        return false;
    }
    // No combinator ends with two others, so a name has one reading, and the recursion has a bound.
    FUNCTIONS.contains(name)
        || COMBINATORS.iter().filter_map(|combinator| name.strip_suffix(combinator)).any(is_function)
}

fn is_unguarded(name: &str) -> bool {
    UNGUARDED.iter().any(|unguarded| unguarded.eq_ignore_ascii_case(name))
}

/// Judges calls and names. `names_given` says that parameters may stand for names. One may stand for an alias too, and
/// then no spelling of the statement shows that alias.
pub(super) fn check(tokens: &Tokens, names_given: bool) -> Result<(), Exception> {
    for at in 0..tokens.len() {
        if let Some(Token::Text(text)) = tokens.get(at)
            && text.to_ascii_lowercase().contains(FORMATTING)
        {
            return Err(denied("expected no groupFormat, which writes files for some formats, found it in a text"));
        }
        if let Some(name) = tokens.call(at) {
            called(&Call { tokens, at, name, names_given })?;
        } else if let Some(name) = tokens.name(at) {
            named(tokens, at, name)?;
        }
    }
    Ok(())
}

fn called(call: &Call<'_>) -> Result<(), Exception> {
    if !allowed(call.name) {
        return Err(denied(&format!(
            "expected functions of tables and values, found {}, which is not allowed here",
            call.name
        )));
    }
    conditions::check(call)
}

/// Judges a name without a parenthesis behind it. By such a name, a function can be passed to another: `arrayMap(file,
/// …)`.
fn named(tokens: &Tokens, at: usize, name: &str) -> Result<(), Exception> {
    let applied = at > 0 && tokens.is_word(at - 1, "APPLY");
    if applied && !tokens.is_sign(at + 1, '-') && !allowed(name) {
        return Err(denied(&format!("expected a function of values after APPLY, found {name}")));
    }
    let qualified = (at > 0 && tokens.is_sign(at - 1, '.')) || tokens.is_sign(at + 1, '.');
    let declared = at > 0 && tokens.is_word(at - 1, "AS");
    if is_unguarded(name) && !qualified && !declared {
        return Err(denied(&format!(
            "expected a column, found {name}, which is a function that reads files; write table.{name} for a column"
        )));
    }
    Ok(())
}

/// Whether a statement may have parameters that stand for names.
pub(super) fn gives_names(sql: &[u8]) -> bool {
    sql.windows(IDENTIFIER.len()).any(|word| word == IDENTIFIER)
}

/// Judges parameters. One may stand for a name: `{f:Identifier}`. If `sql` has none of these, all values are only
/// values.
pub(super) fn parameters(sql: &[u8], parameters: &Parameters) -> Result<(), Exception> {
    if !gives_names(sql) {
        return Ok(());
    }
    let names = |value: &str| {
        let parts = value.split('.').chain([value]).map(|part| part.trim_matches(['`', '"', ' ']));
        parts
            .into_iter()
            .any(|part| super::kinds::is_path(part) || super::kinds::is_perilous(part) || is_unguarded(part))
    };
    match parameters.iter().find(|(_, value)| names(value)) {
        Some((name, value)) => Err(denied(&format!(
            "expected a parameter {name} that could name neither a path, nor system.models, nor a function that reads files, found {value}; write it out"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Tokens;
    use super::{check, parameters};

    #[test]
    fn what_reaches_out_of_the_database_is_refused_in_every_place() {
        for (text, passes) in [
            ("SELECT count(), sumIf(a, b), quantilesTDigestArrayIf(0.5)(a, b) FROM numbers(3)", true),
            ("SELECT a FROM values('a Int8, b String', (1, 'x'), (-2, 'y'))", true),
            ("SELECT * FROM format(JSONEachRow, 'a Int8', '{\"a\":1}')", true),
            ("SELECT format('{} {}', a, lower(b)), t.file AS file FROM t", true),
            ("CREATE TABLE t (`a` Array(Nullable(String)) CODEC(ZSTD(3)))", true),
            ("SELECT * FROM file('x')", false),
            ("SELECT * FROM `file`('x')", false),
            ("SELECT * FROM url('http://localhost')", false),
            ("SELECT * FROM eval('SELECT 1')", false),
            ("SELECT file('x')", false),
            ("SELECT * FROM viewExplain('EXPLAIN TABLE OVERRIDE', '', (SELECT 1))", false),
            ("SELECT groupFormat('Protobuf')(x) FROM t", false),
            ("SELECT arrayReduce('sumIf', [1], [1]), initializeAggregation('uniq', 1)", true),
            ("SELECT arrayReduce('groupFormatIf(\\'Protobuf\\')', [1], [1])", false),
            ("SELECT arrayReduceInRanges(concat('group', 'Format'), [1])", false),
            ("CREATE TABLE b (`a` Int8) ENGINE = Buffer(own, t, 1, 1, 1, 1, 1, 1, 1)", true),
            ("CREATE TABLE b (`a` Int8) ENGINE = Buffer(system, models, 1, 1, 1, 1, 1, 1, 1)", false),
            ("CREATE TABLE b (`a` Int8) ENGINE = Buffer('system', 'models', 1, 1, 1, 1, 1, 1, 1)", false),
            ("CREATE TABLE b (`a` Int8) ENGINE = Buffer(concat('sys', 'tem'), 'models', 1, 1, 1, 1, 1, 1, 1)", false),
            ("SELECT * FROM merge('test', '^t$')", true),
            ("SELECT * FROM merge('system', '^models$')", false),
            ("SELECT * FROM merge('^models$')", false),
            ("SELECT * FROM merge(REGEXP('^system$'), '^models$')", false),
            ("SELECT * FROM merge({d:String}, '^models$')", false),
            ("WITH 'a String DEFAULT file(\\'x\\')' AS s SELECT a FROM format(JSONEachRow, s, '{}')", false),
            ("WITH 'a String DEFAULT file(\\'x\\')' AS s SELECT a FROM generateRandom(s)", false),
            ("SELECT 'a String DEFAULT f' AS `7`, a FROM values(`7`)", false),
            ("SELECT 'a String DEFAULT f' AS inf, a FROM values(inf)", false),
            ("SELECT 'a String DEFAULT f' AS true, a FROM values(true)", false),
            ("WITH 'Values' AS JSONEachRow SELECT a FROM format(JSONEachRow, 'a Int8', '{}')", false),
            ("WITH 'Values' AS `CSV` SELECT a FROM format(csv, 'a Int8', '{}')", false),
            ("SELECT * FROM format(CSV, 'a Int8', '1') UNION ALL SELECT * FROM format(CSV, 'a Int8', '2')", true),
            ("SELECT arrayMap(file, ['x'])", false),
            ("SELECT arrayMap(`file`, ['x'])", false),
            ("SELECT * APPLY file FROM t", false),
            ("SELECT * APPLY url FROM t", false),
            ("SELECT * FROM format(JSONEachRow, 'a String DEFAULT file(\\'x\\')', '{}')", false),
            ("SELECT * FROM format(JSONEachRow, concat('a'), '{}')", false),
            ("SELECT * FROM format(JSONEachRow, {s:String}, '{}')", false),
            ("SELECT * FROM generateRandom('a String Alias f')", false),
        ] {
            assert_eq!(check(&Tokens::read(text).unwrap(), false).is_ok(), passes, "{text}");
        }
        let named = |sql: &[u8], value: &str| parameters(sql, &[("f".to_owned(), value.to_owned())]).is_ok();
        let name = b"SELECT {f:Identifier}";
        assert!(named(name, "files") && !named(name, "`file`") && !named(name, "/root") && !named(name, "a.`/root`"));
        assert!(named(b"SELECT {f:String}", "/root"));
    }
}
