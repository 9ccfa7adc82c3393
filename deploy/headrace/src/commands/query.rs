//! `headrace query`: sends one statement to ClickHouse and prints its answer.
//!
//! A person who looks at events should need neither the password nor a client. Without `--write`, no statement may
//! change anything.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use headrace_runtime::certificate::{Untrusted, read_ca_file};
use headrace_runtime::secret::{Secret, redact_url};
use headrace_sinks::clickhouse::Access;
use reqwest::{Certificate, Response, Url};

use super::http;
use crate::cli::ask::Query;
use crate::cli::output::{self, Listener};
use crate::installation::data_dir::{CLICKHOUSE_READER, CLICKHOUSE_READER_PASSWORD};
use crate::installation::{kept, running, servers};

/// How long the server may take to accept the connection. The statement itself has no limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The format for a terminal, if the statement names none.
const TERMINAL_FORMAT: &str = "PrettyCompactMonoBlock";
/// The format for a program, if the statement names none.
const PROGRAM_FORMAT: &str = "TabSeparatedWithNames";
/// The format for `--json`.
const JSON_FORMAT: &str = "JSONEachRow";

pub(crate) async fn query(arguments: Query) -> anyhow::Result<()> {
    let sql = statement(&arguments)?;
    let server = server(&arguments)?;
    let terminal = io::stdout().is_terminal();
    let format = match arguments.format.as_deref() {
        Some(format) => format,
        None if arguments.json => JSON_FORMAT,
        None if terminal => TERMINAL_FORMAT,
        None => PROGRAM_FORMAT,
    };
    let answer = ask(server, sql, format, arguments.write).await?;
    print(answer, terminal).await
}

fn statement(arguments: &Query) -> anyhow::Result<String> {
    let sql = if arguments.sql == "-" {
        let mut sql = String::new();
        io::stdin().read_to_string(&mut sql).context("cannot read the statement from stdin")?;
        sql
    } else {
        arguments.sql.clone()
    };
    anyhow::ensure!(!sql.trim().is_empty(), "expected a statement, found an empty text");
    Ok(sql)
}

/// The server of the configuration, or of the `up` that runs on the data directory.
fn server(arguments: &Query) -> anyhow::Result<Access> {
    let located = arguments.place.locate()?;
    let config = servers::load(&located)?.value;
    let mut clickhouse = config.clickhouse().cloned().unwrap_or_default();
    let is_own = clickhouse.url.is_empty();
    if is_own {
        let ready = running::of(servers::of_up(&located, servers::CLICKHOUSE)?).context(
            "expected `sinks.clickhouse.url` in the configuration, or a running `headrace up`; give --config, or name \
             its --data-dir",
        )?;
        clickhouse.url = ready.clickhouse.context("the ready file of the running process names no ClickHouse")?;
    }
    let access = clickhouse.access();
    if !is_own || arguments.write {
        return Ok(access);
    }
    // On the server of an `up`, use the user `reader`. It has places of its own, so a slow statement delays no sink.
    match kept::read_to_string(&located.data_dir, CLICKHOUSE_READER_PASSWORD)? {
        Some(password) => {
            Ok(Access { user: CLICKHOUSE_READER.to_owned(), password: Secret::new(password.trim()), ..access })
        }
        None => Ok(access),
    }
}

/// The CAs in the file at `path`.
fn trusted(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    Certificate::from_pem_bundle(&read_ca_file(path)?)
        .with_context(|| format!("{} is no PEM file with certificates", path.display()))
}

async fn ask(access: Access, sql: String, format: &str, write: bool) -> anyhow::Result<Response> {
    let Access { url: address, user, password, ca_path } = access;
    // The parser's error is left out, because it may hold a password.
    let mut url =
        Url::parse(&address).ok().context("expected a URL in `sinks.clickhouse.url`, found something else")?;
    let trusted = ca_path.as_deref().map(trusted).transpose()?.unwrap_or_default();
    let client = http::client(&url, |client| client.connect_timeout(CONNECT_TIMEOUT).tls_certs_merge(trusted))?;
    url.query_pairs_mut().append_pair("default_format", format);
    if !write {
        // Level 2: the statement may change only its own settings.
        url.query_pairs_mut().append_pair("readonly", "2");
    }
    let request =
        client.post(url).header("X-ClickHouse-User", user).header("X-ClickHouse-Key", password.expose()).body(sql);
    let answer = request.send().await.map_err(|error| {
        let error = anyhow::Error::new(error.without_url());
        let advice = match Untrusted::of(&error) {
            Some(untrusted) => untrusted.advice(
                "`sinks.clickhouse.ca_path`, or the environment variable SSL_CERT_FILE,",
                "`sinks.clickhouse.url`",
            ),
            None => "is it running there?".to_owned(),
        };
        error.context(format!("cannot ask ClickHouse at {}; {advice}", redact_url(&address)))
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    anyhow::ensure!(
        !status.is_redirection(),
        "expected ClickHouse at {}, found a redirect ({status}), which is not followed; name the server itself",
        redact_url(&address)
    );
    let words = answer.text().await.map_err(reqwest::Error::without_url).context("the answer broke off")?;
    let words = words.trim();
    let hint =
        if !write && words.contains("(READONLY)") { "\nA statement that changes something needs --write." } else { "" };
    anyhow::bail!("{words}{hint}")
}

async fn print(mut answer: Response, terminal: bool) -> anyhow::Result<()> {
    let broken = "the answer broke off; what was printed is incomplete";
    let mut clean = Clean::default();
    while let Some(piece) = answer.chunk().await.map_err(reqwest::Error::without_url).context(broken)? {
        let reader = if terminal { output::write(&clean.piece(&piece)) } else { output::write(&piece) }?;
        if reader == Listener::Gone {
            return Ok(());
        }
    }
    output::write(&clean.end())?;
    Ok(())
}

/// Removes what would control a terminal from text in UTF-8, because strangers wrote some of it.
#[derive(Default)]
struct Clean {
    /// The last byte may be the first half of a control character.
    pending: bool,
}

impl Clean {
    /// The first byte of U+0080 to U+00BF. The first half of these are control characters.
    const LATIN: u8 = 0xC2;

    fn piece(&mut self, text: &[u8]) -> Vec<u8> {
        let mut clean = Vec::with_capacity(text.len() + 1);
        for &byte in text {
            let pending = std::mem::take(&mut self.pending);
            if pending && (0x80..0xA0).contains(&byte) {
                clean.push(b'?');
                continue;
            }
            if pending {
                clean.push(Self::LATIN);
            }
            match byte {
                Self::LATIN => self.pending = true,
                b'\n' | b'\t' => clean.push(byte),
                _ if byte.is_ascii_control() => clean.push(b'?'),
                _ => clean.push(byte),
            }
        }
        clean
    }

    /// What is left at the end.
    fn end(&mut self) -> Vec<u8> {
        if std::mem::take(&mut self.pending) { vec![Self::LATIN] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::Clean;

    #[test]
    fn a_terminal_is_not_steered_by_what_strangers_wrote() {
        let text = "a\x1b[2Jé\n\tb\x07\u{9b}2J©\u{85}".as_bytes();
        for length in 1..=text.len() {
            let mut clean = Clean::default();
            let mut found: Vec<u8> = text.chunks(length).flat_map(|piece| clean.piece(piece)).collect();
            found.extend(clean.end());
            assert_eq!(String::from_utf8(found).unwrap(), "a?[2Jé\n\tb??2J©?", "in pieces of {length}");
        }
    }
}
