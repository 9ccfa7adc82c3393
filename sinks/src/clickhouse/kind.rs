//! ClickHouse as a kind of sink.

use std::path::Path;

use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::Fault;

use super::place::key_of;
use super::write::migrate;
use super::{Config, RAW_SUFFIX, owner};
use crate::kind::{Identity, Kind, Part};

#[async_trait]
impl Kind for Config {
    const NAME: &'static str = "clickhouse";
    const COMPONENTS: &'static [(&'static str, Stream)] = &[("", Stream::Events), (RAW_SUFFIX, Stream::Raw)];
    const ONE_AT_A_TIME: Option<&'static str> = Some("more would only make the inserts smaller");
    const FIRST_IS_STORE: bool = true;

    fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Self::validate(self, path);
        if self.url.is_empty() {
            let message = "expected an address such as `http://127.0.0.1:8123`, found none; `headrace up` starts a server \
                           by itself for `[sinks.clickhouse]`";
            problems.insert(0, Invalid::new(format!("{path}.url"), message));
        }
        problems
    }

    /// Two writers of one table would not see each other's first deliveries. What the spelling of an address hides, the
    /// database tells the sinks (`owner.rs`).
    fn place(&self) -> Option<(&'static str, String)> {
        (!self.url.is_empty()).then(|| ("database", format!("{} {}", self.server(), self.database)))
    }

    fn store_place(&self) -> u64 {
        let server = self.server();
        // A server of this machine may get another port at each start, as that of `up` does where it takes a free one.
        let server = match server.strip_prefix("localhost:") {
            Some(port) => format!("localhost{}", port.trim_start_matches(|char: char| char.is_ascii_digit())),
            None => server,
        };
        key_of(&format!("{server} {}", self.database))
    }

    fn parts(&self, own: &Identity) -> anyhow::Result<Vec<Part>> {
        let owner = self.watch(own);
        let raw = Part::raw(self.raw_of(&own.instance, owner.of_other_part()), self.raw_options());
        Ok(vec![Part::events(self.events_of(&own.instance, owner), self.event_options()), raw])
    }

    async fn check(&self) -> Result<(), Fault> {
        self.reach().await
    }

    async fn prepare(&self, own: Option<&Identity>) -> Option<Result<(), Fault>> {
        let claimed = async {
            self.reach().await?;
            // A person asks for it, so tables that were dropped are made too.
            migrate::restore(&self.client(), &self.database).await?;
            let Some(own) = own else { return Ok(()) };
            owner::claim(&self.client(), &self.database, own).await.map(|_| ())
        };
        Some(claimed.await)
    }

    fn of_up(_data: &Path, _is_alone: bool) -> Option<Self> {
        Some(Self::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_known_by_its_server_and_its_database() {
        let place = |url: &str, database: &str| {
            Config { url: url.to_owned(), database: database.to_owned(), ..Config::default() }.store_place()
        };
        let known = place("http://ch.example.com:8123", "headrace");
        assert_eq!(known, place("http://user:secret@CH.example.com:8123/", "headrace"), "the same one");
        for (url, database) in [
            ("http://ch2.example.com:8123", "headrace"),
            ("http://ch.example.com:9123", "headrace"),
            ("http://ch.example.com:8123", "headrace_2"),
        ] {
            assert_ne!(known, place(url, database), "{url} {database}");
        }
        assert_eq!(place("http://127.0.0.1:4711", "headrace"), place("http://localhost:4712/", "headrace"));
        assert_ne!(place("http://127.0.0.1:4711", "headrace"), place("http://127.0.0.1:4711", "other"));
    }
}
