//! What became of the events: rows in ClickHouse and messages in NATS. This asks the servers, never the product.

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, message::StreamMessage};
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::config::Nats;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::process::Ready;
use crate::harness::{CEILING, consumed};

/// Each row as an array of its columns.
const FORMAT: &str = "JSONCompactEachRow";

/// The two servers behind a process.
pub struct Stored {
    http: reqwest::Client,
    clickhouse: String,
    jetstream: jetstream::Context,
}

impl Stored {
    /// The servers of the process that wrote `ready`.
    ///
    /// # Panics
    /// When NATS does not answer.
    pub async fn of(ready: &Ready) -> Self {
        let nats = ready.nats.as_ref().expect("the process reports its NATS");
        Self::at(nats, ready.clickhouse.as_ref().expect("the process reports its ClickHouse")).await
    }

    /// The servers at these addresses.
    ///
    /// # Panics
    /// When NATS does not answer.
    pub async fn at(nats: &str, clickhouse: &str) -> Self {
        let mut settings = Nats::default();
        settings.reach(nats);
        let options = match settings.user {
            Some(user) => ConnectOptions::with_user_and_password(user, settings.password.expose().to_owned()),
            None => ConnectOptions::new(),
        };
        let client = options.connect(settings.url).await.expect("NATS answers");
        Self { http: reqwest::Client::new(), clickhouse: clickhouse.to_owned(), jetstream: jetstream::new(client) }
    }

    /// JetStream, without the runtime's rules.
    #[must_use]
    pub const fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// The rows of a query in the database `headrace`, each as a tuple of its columns. Leave out the query's FORMAT.
    ///
    /// # Panics
    /// When ClickHouse refuses the query, or its columns have other types.
    pub async fn rows<T: DeserializeOwned>(&self, sql: &str) -> Vec<T> {
        self.ask(sql, FORMAT).await.unwrap_or_else(|error| panic!("{sql}: {error:#}"))
    }

    /// The rows of a query, each as an object. Leave out the query's FORMAT.
    ///
    /// # Panics
    /// When ClickHouse refuses the query.
    pub async fn objects(&self, sql: &str) -> Vec<Map<String, Value>> {
        self.ask(sql, "JSONEachRow").await.unwrap_or_else(|error| panic!("{sql}: {error:#}"))
    }

    async fn ask<T: DeserializeOwned>(&self, sql: &str, format: &str) -> anyhow::Result<Vec<T>> {
        let sql = format!("{sql} FORMAT {format}");
        // Return counts as numbers, not as texts.
        let parameters = [("database", "headrace"), ("output_format_json_quote_64bit_integers", "0")];
        let url = reqwest::Url::parse_with_params(&self.clickhouse, parameters)?;
        let response = self.http.post(url).body(sql).send().await?;
        let status = response.status();
        let text = response.text().await?;
        anyhow::ensure!(status.is_success(), "{status} {text}");
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits until a query that counts returns `count`.
    ///
    /// # Panics
    /// When it never does.
    pub async fn until_count(&self, sql: &str, count: u64) {
        let condition = async || {
            // A server that is being restarted cannot answer, so ask again.
            let found = self.ask::<(u64,)>(sql, FORMAT).await.ok()?;
            (found == [(count,)]).then_some(())
        };
        if let Err(error) = poll::until(&format!("{sql} = {count}"), CEILING, condition).await {
            panic!("{error}; found {:?}", self.ask::<(u64,)>(sql, FORMAT).await);
        }
    }

    /// A handle of a stream, with the stream's present state.
    ///
    /// # Panics
    /// When NATS does not answer.
    pub async fn stream(&self, stream: Stream) -> jetstream::stream::Stream {
        self.jetstream.get_stream(stream.name()).await.expect("the streams exist")
    }

    /// How many messages a stream holds.
    pub async fn count(&self, stream: Stream) -> u64 {
        self.stream(stream).await.cached_info().state.messages
    }

    /// Every message of a stream, from the first.
    ///
    /// # Panics
    /// When NATS does not answer.
    pub async fn messages(&self, stream: Stream) -> Vec<StreamMessage> {
        let stream = self.stream(stream).await;
        let state = &stream.cached_info().state;
        let mut messages = Vec::new();
        // An empty stream has a last sequence below its first.
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            messages.push(stream.get_raw_message(sequence).await.expect("nothing is deleted in between"));
        }
        messages
    }

    /// Waits until every component has settled every message of its streams. Then nothing more happens.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn settled(&self) {
        let condition = async || self.is_settled().await.ok()?.then_some(());
        if let Err(error) = poll::until("every message is settled", CEILING, condition).await {
            panic!("{error}; {:#?}", self.backlog().await);
        }
    }

    async fn is_settled(&self) -> anyhow::Result<bool> {
        let before = self.last_sequences().await?;
        let settled = self.backlog().await?.is_empty();
        // Nobody has work left, and no stream grew while we asked.
        Ok(settled && before == self.last_sequences().await?)
    }

    async fn last_sequences(&self) -> anyhow::Result<Vec<u64>> {
        let mut sequences = Vec::new();
        for stream in Stream::ALL {
            sequences.push(self.jetstream.get_stream(stream.name()).await?.cached_info().state.last_sequence);
        }
        Ok(sequences)
    }

    /// The components with work left: their name, the messages that wait, the messages that are not settled.
    async fn backlog(&self) -> anyhow::Result<Vec<(String, u64, usize)>> {
        let mut backlog = Vec::new();
        for stream in Stream::ALL {
            let stream = self.jetstream.get_stream(stream.name()).await?;
            backlog.extend(consumed::behind(&stream).await?);
        }
        Ok(backlog)
    }
}

/// A message's header. Empty if the message has no such header.
#[must_use]
pub fn header(message: &StreamMessage, name: &str) -> String {
    message.headers.get(name).map(ToString::to_string).unwrap_or_default()
}
