//! What ClickHouse's failures mean for a batch.

use clickhouse::error::Error;
use headrace_runtime::certificate::Untrusted;
use headrace_runtime::fault::{DeadReason, Effect, Fault, FaultClass};

use super::TRUSTED;

/// A failure, and whether its cause may be the size of what was sent.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    /// A smaller insert might have been stored.
    pub(crate) too_much: bool,
    /// A materialized view failed, that of somebody who reads the table. The table may well have all the rows.
    pub(crate) of_view: bool,
}

/// ClickHouse's error codes that mean a person must act: `src/Common/ErrorCodes.cpp`.
const BROKEN: [u32; 13] = [
    10,  // NOT_FOUND_COLUMN_IN_BLOCK
    16,  // NO_SUCH_COLUMN_IN_TABLE
    47,  // UNKNOWN_IDENTIFIER
    60,  // UNKNOWN_TABLE
    62,  // SYNTAX_ERROR
    81,  // UNKNOWN_DATABASE
    115, // UNKNOWN_SETTING
    164, // READONLY
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    194, // REQUIRED_PASSWORD
    497, // ACCESS_DENIED
    516, // AUTHENTICATION_FAILED
];

/// Codes that mean that a row cannot be stored as it is.
const POISON: [u32; 11] = [
    6,   // CANNOT_PARSE_TEXT
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    33,  // CANNOT_READ_ALL_DATA
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    53,  // TYPE_MISMATCH
    70,  // CANNOT_CONVERT_TYPE
    117, // INCORRECT_DATA
    131, // TOO_LARGE_STRING_SIZE
    469, // VIOLATED_CONSTRAINT
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
];

/// Codes after which the insert may have happened: the server does not know itself, or it stopped waiting.
const UNCLEAR: [u32; 5] = [
    159, // TIMEOUT_EXCEEDED
    209, // SOCKET_TIMEOUT
    210, // NETWORK_ERROR
    319, // UNKNOWN_STATUS_OF_INSERT
    394, // QUERY_WAS_CANCELLED
];

/// Codes that blame the size of an insert, or the time that it took.
const TOO_MUCH: [u32; 7] = [
    158, // TOO_MANY_ROWS
    159, // TIMEOUT_EXCEEDED
    173, // CANNOT_ALLOCATE_MEMORY
    209, // SOCKET_TIMEOUT
    241, // MEMORY_LIMIT_EXCEEDED
    307, // TOO_MANY_BYTES
    396, // TOO_MANY_ROWS_OR_BYTES
];

/// What the server says where a materialized view fails that reads the table, before the view's name.
const IN_VIEW: &str = ": while pushing to view ";

/// Classifies `error`. Any failure that is not known to be otherwise is transient, so that nothing is dead-lettered for
/// a failure that nobody has understood.
pub(crate) fn fault(error: Error) -> Failure {
    let code = match &error {
        Error::BadResponse(text) => exception_code(text),
        _ => None,
    };
    let unclear = match &error {
        Error::BadResponse(_) => code.is_none_or(|code| UNCLEAR.contains(&code)),
        Error::Network(_) | Error::TimedOut | Error::Decompression(_) => true,
        _ => false,
    };
    let too_much = matches!(error, Error::TimedOut) || code.is_some_and(|code| TOO_MUCH.contains(&code));
    // A view may compute anything, and so fail with any code. None of them tells about our table or our rows.
    let of_view = !unclear && matches!(&error, Error::BadResponse(text) if is_of_view(text));
    let our_fault = matches!(
        error,
        Error::SchemaMismatch(_) | Error::InvalidParams(_) | Error::Unsupported(_) | Error::InvalidColumnsHeader(_)
    );
    let source = anyhow::Error::new(error);
    let untrusted = Untrusted::of(&source);
    let source = source.context(match untrusted {
        Some(untrusted) => {
            let advice = untrusted.advice(&format!("`ca_path` or the environment variable {TRUSTED}"), "`url`");
            format!("ClickHouse is not trusted: {advice}")
        }
        None => "ClickHouse refused or did not answer".to_owned(),
    });
    let fault = match code {
        _ if of_view => Fault::transient(source),
        Some(code) if BROKEN.contains(&code) => Fault::broken(source),
        Some(code) if POISON.contains(&code) => Fault::poison(DeadReason::Rejected, source),
        _ if our_fault || untrusted.is_some() => Fault::broken(source),
        _ => Fault::transient(source),
    };
    let effect = if unclear { Effect::Possible } else { Effect::None };
    Failure { fault: fault.with_effect(effect), too_much, of_view }
}

/// Whether the server has no table of the name.
pub(crate) fn is_unknown_table(error: &Error) -> bool {
    matches!(error, Error::BadResponse(text) if exception_code(text) == Some(60))
}

/// Whether the server has no database of the name.
pub(crate) fn is_unknown_database(error: &Error) -> bool {
    matches!(error, Error::BadResponse(text) if exception_code(text) == Some(81))
}

/// What a failed look-up means: it wrote nothing, and what the table says is no item's fault.
pub(crate) fn of_look_up(Failure { mut fault, too_much, .. }: Failure) -> Failure {
    if matches!(fault.class, FaultClass::Poison(_)) {
        fault = Fault::transient(
            fault.source.context("cannot look up which rows are there; is a part of the table damaged?"),
        );
    }
    Failure { fault: fault.with_effect(Effect::None), too_much, of_view: false }
}

/// Whether a view failed. Other failures may quote a row's text, which may have these words.
fn is_of_view(text: &str) -> bool {
    text.rfind(IN_VIEW).is_some_and(|at| !text[at..].contains(['\'', '"', '`']))
}

/// The number in `Code: 60. DB::Exception: …`, or the bare number that the client gives when the answer had no text.
/// This is how the protocol tells an error, and the client keeps no other form.
fn exception_code(text: &str) -> Option<u32> {
    let start = text.find("Code: ").map_or(text, |at| &text[at + "Code: ".len()..]);
    let digits = start.len() - start.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    start[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide() {
        let transient = FaultClass::Transient { retry_after: None };
        for (text, class, is_unclear, too_much) in [
            (
                "Code: 60. DB::Exception: Table headrace.events does not exist. (UNKNOWN_TABLE)",
                FaultClass::Broken,
                false,
                false,
            ),
            ("Code: 516. DB::Exception: default: Authentication failed", FaultClass::Broken, false, false),
            ("Code: 252. DB::Exception: Too many parts (3000)", transient.clone(), false, false),
            ("Code: 241. DB::Exception: Memory limit exceeded", transient.clone(), false, true),
            ("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space", transient.clone(), false, false),
            ("Code: 159. DB::Exception: Timeout exceeded", transient.clone(), true, true),
            ("Code: 675. DB::Exception: Invalid IPv4 value. (CANNOT_PARSE_IPV4)", transient.clone(), false, false),
            ("Code: 117. DB::Exception: Incorrect data", FaultClass::Poison(DeadReason::Rejected), false, false),
            ("516", FaultClass::Broken, false, false),
            ("bad gateway", transient.clone(), true, false),
            ("", transient, true, false),
        ] {
            let failure = fault(Error::BadResponse(text.to_owned()));
            let found = (failure.fault.class, failure.fault.effect == Effect::Possible, failure.too_much);
            assert_eq!(found, (class, is_unclear, too_much), "{text}");
        }
        let late = fault(Error::TimedOut);
        assert!(late.fault.effect == Effect::Possible && late.too_much);
        assert_eq!(fault(Error::SchemaMismatch("x".into())).fault.class, FaultClass::Broken);
    }

    #[test]
    fn a_failure_of_a_view_blames_neither_rows_nor_table() {
        for (code, too_much) in [(6, false), (60, false), (117, false), (241, true), (252, false), (675, false)] {
            let failure =
                fault(Error::BadResponse(format!("Code: {code}. DB::Exception: x: while pushing to view headrace.v")));
            assert_eq!(failure.fault.class, FaultClass::Transient { retry_after: None }, "{code}");
            assert_eq!(
                (failure.fault.effect, failure.too_much, failure.of_view),
                (Effect::None, too_much, true),
                "{code}"
            );
        }
        let quoted =
            "Code: 6. DB::Exception: Cannot parse string 'x: while pushing to view y' as UInt8. (CANNOT_PARSE_TEXT)";
        let quoted = fault(Error::BadResponse(quoted.to_owned()));
        assert!(quoted.fault.class == FaultClass::Poison(DeadReason::Rejected) && !quoted.of_view);
        // The server stopped waiting, so it does not tell whether the table has the rows.
        let late =
            fault(Error::BadResponse("Code: 159. DB::Exception: x: while pushing to view headrace.v".to_owned()));
        assert!(late.fault.effect == Effect::Possible && !late.of_view);
    }

    #[test]
    fn a_look_up_blames_no_item() {
        let transient = FaultClass::Transient { retry_after: None };
        for (code, class, too_much) in [
            (33, transient.clone(), false),
            (117, transient.clone(), false),
            (159, transient.clone(), true),
            (241, transient, true),
            (60, FaultClass::Broken, false),
        ] {
            let failure = of_look_up(fault(Error::BadResponse(format!("Code: {code}. DB::Exception: x"))));
            let found = (failure.fault.class, failure.fault.effect, failure.too_much);
            assert_eq!(found, (class, Effect::None, too_much), "{code}");
        }
    }
}
