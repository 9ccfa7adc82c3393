//! The users of NATS and their rights. Each role has a user, with the rights that its code needs and no more.
//!
//! Only the admin may do everything. Besides it, only retention may purge. A request is a published message, so the
//! rights to publish also bound requests. Each user receives answers under a prefix of its own. The page
//! `deploy/docs/nats-permissions.md` shows the same rights as a file for nats-server.

use headrace_local::nats::Permissions;
use headrace_runtime::aside::consumer_of;
use headrace_runtime::broker::{ASIDES, BODIES, CURSORS, RECOVERY, SCHEMAS, STATE, Stream};
use headrace_runtime::consume::leftover::Component;
use headrace_runtime::publish::store_health::PROBE_KEY;
use headrace_runtime::settle::trials;
use headrace_sinks::instances::usual_components;
use headrace_stages::chains;

use crate::role::{CLICKHOUSE, CLICKHOUSE_RAW, earlier_tables_lease};

/// A user of NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A person with a tool, or a process that makes the streams. May do everything.
    Admin,
    /// The gateway: stores deliveries and reads nothing.
    Ingest,
    /// Asks sources: stores what they give, and keeps how far each was read.
    Collect,
    /// The stages: from RAW to EVENTS and ALERTS.
    Pipeline,
    /// Makes room in full streams. Besides the admin, only this user removes messages.
    Retention,
    /// The sinks: read, and publish to DEAD.
    Sinks,
    /// Looks for missed deliveries: asks for the progress of the sinks, and keeps its proofs.
    Recover,
    /// A program that reads finished events and alerts.
    Subscriber,
}

impl User {
    /// All users.
    pub const ALL: [Self; 8] = [
        Self::Admin,
        Self::Ingest,
        Self::Collect,
        Self::Pipeline,
        Self::Retention,
        Self::Sinks,
        Self::Recover,
        Self::Subscriber,
    ];

    /// Its name in NATS.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Ingest => "ingest",
            Self::Collect => "collect",
            Self::Pipeline => "pipeline",
            Self::Retention => "retention",
            Self::Sinks => "sinks",
            Self::Recover => "recover",
            Self::Subscriber => "subscriber",
        }
    }

    /// The file with its password, in the directory `nats.users_dir`.
    #[must_use]
    pub fn password_file(self) -> String {
        format!("nats-{}-password", self.name())
    }

    /// The prefix of the subjects of its answers. No other user may subscribe there.
    #[must_use]
    pub fn inbox_prefix(self) -> String {
        format!("_INBOX_{}", self.name())
    }

    /// What it may do. `None` means everything. The sinks are those that have the names of their kinds.
    #[must_use]
    pub fn permissions(self) -> Option<Permissions> {
        self.permissions_with(&[])
    }

    /// The same, with `further` components of sinks.
    #[must_use]
    pub fn permissions_with(self, further: &[Component]) -> Option<Permissions> {
        let own = match self {
            Self::Admin => return None,
            Self::Ingest => ingest(),
            Self::Collect => collect(),
            Self::Pipeline => pipeline(),
            Self::Retention => retention(),
            Self::Sinks => sinks(further),
            Self::Recover => recover(),
            Self::Subscriber => subscriber(),
        };
        Some(own.0)
    }
}

fn ingest() -> Rights {
    // The gateway writes one key to find out whether anything can be stored at all.
    let probe = format!("$KV.{STATE}.{PROBE_KEY}");
    Rights::of(User::Ingest).publish([Stream::Raw.subjects().to_owned(), probe]).write_bodies()
}

fn collect() -> Rights {
    Rights::of(User::Collect).publish([Stream::Raw.subjects().to_owned()]).write_bodies().keep(CURSORS)
}

fn pipeline() -> Rights {
    let mut rights = Rights::of(User::Pipeline)
        .publish([Stream::Events, Stream::Alerts].map(|stream| stream.subjects().to_owned()))
        // To recognize another body under a known id, it reads what it has published already.
        .look_at(Stream::Events)
        .read_bodies()
        .keep(STATE);
    // A chain has the name of its first stage, and any stage may be the first.
    for component in chains::ORDER.into_iter().chain([chains::ALERT]) {
        let stream = if component == chains::ORDER[0] { Stream::Raw } else { Stream::Events };
        rights = rights.consume(stream, component).give_up(component);
    }
    rights
}

fn retention() -> Rights {
    // It writes down what a sink will miss before it removes that.
    let mut rights = Rights::of(User::Retention).keep(ASIDES);
    for stream in [Stream::Raw, Stream::Events, Stream::Alerts] {
        let name = stream.name();
        rights = rights.look_at(stream).ask([format!("CONSUMER.LIST.{name}"), format!("STREAM.PURGE.{name}")]);
    }
    // CATCHUP is only measured: what is settled there goes by itself.
    rights.look_at(Stream::CatchUp).ask([format!("CONSUMER.LIST.{}", Stream::CatchUp.name())])
}

fn sinks(further: &[Component]) -> Rights {
    // To see which sinks are paused, and to note how far they have caught up.
    let mut rights = Rights::of(User::Sinks).read_bodies().keep(ASIDES);
    for stream in [Stream::Raw, Stream::Events, Stream::Alerts, Stream::CatchUp] {
        rights = rights.look_at(stream);
        // To tell what a sink that was taken out has left behind.
        rights = rights.ask([format!("CONSUMER.LIST.{}", stream.name())]);
    }
    for Component { instance, kind, name, stream } in usual_components().iter().chain(further) {
        rights = rights.consume(*stream, name).give_up(name).note_progress(name);
        // The store does not catch up: the others do so from it.
        if *stream == Stream::Events && name != CLICKHOUSE {
            rights = rights.catch_up(name);
        }
        // One process moves the rows of an earlier release.
        if *stream == Stream::Events && kind == CLICKHOUSE {
            rights = rights.keep_key(STATE, &earlier_tables_lease(instance));
        }
    }
    rights
}

fn recover() -> Rights {
    let raw = Stream::Raw.name();
    Rights::of(User::Recover)
        .ask([format!("CONSUMER.INFO.{raw}.{CLICKHOUSE_RAW}")])
        .look_at(Stream::Raw)
        .keep(RECOVERY)
        .push_from(&format!("KV_{RECOVERY}"))
}

/// Either a durable consumer of its own name on each stream, with any filter, or a plain subscription.
fn subscriber() -> Rights {
    let streams = [Stream::Events, Stream::Alerts];
    let mut rights = Rights::bare(User::Subscriber).read(SCHEMAS);
    rights = rights.ask(streams.map(|stream| format!("STREAM.INFO.{}", stream.name())));
    rights = rights.subscribe(streams.map(|stream| stream.subjects().to_owned()));
    for stream in streams {
        let (name, own) = (stream.name(), User::Subscriber.name());
        rights = rights.consume(stream, own);
        rights = rights.ask([format!("CONSUMER.CREATE.{name}.{own}.>"), format!("CONSUMER.DELETE.{name}.{own}")]);
    }
    rights
}

/// Builds permissions.
struct Rights(Permissions);

impl Rights {
    /// The right to receive answers, and to ask whether JetStream is on.
    fn bare(user: User) -> Self {
        let subscribe = vec![format!("{}.>", user.inbox_prefix())];
        Self(Permissions { publish: Vec::new(), subscribe }).ask(["INFO".to_owned()])
    }

    /// The rights that every process needs at its start: it checks that all streams and buckets are as configured.
    fn of(user: User) -> Self {
        let buckets = [SCHEMAS, STATE, RECOVERY, CURSORS, ASIDES].map(|bucket| format!("KV_{bucket}"));
        let names = Stream::ALL.map(|stream| stream.name().to_owned()).into_iter().chain(buckets);
        let names = names.chain([format!("OBJ_{BODIES}")]);
        Self::bare(user).ask(names.map(|name| format!("STREAM.INFO.{name}"))).read(SCHEMAS)
    }

    fn publish(mut self, subjects: impl IntoIterator<Item = String>) -> Self {
        for subject in subjects {
            if !self.0.publish.contains(&subject) {
                self.0.publish.push(subject);
            }
        }
        self
    }

    fn subscribe(mut self, subjects: impl IntoIterator<Item = String>) -> Self {
        self.0.subscribe.extend(subjects);
        self
    }

    /// Adds requests to JetStream.
    fn ask(self, requests: impl IntoIterator<Item = String>) -> Self {
        self.publish(requests.into_iter().map(|request| format!("$JS.API.{request}")))
    }

    /// The rights to make a durable pull consumer, to ask it for messages, and to acknowledge them.
    fn consume(self, stream: Stream, consumer: &str) -> Self {
        let name = stream.name();
        self.ask(["CREATE", "INFO", "MSG.NEXT"].map(|what| format!("CONSUMER.{what}.{name}.{consumer}")))
            .publish([format!("$JS.ACK.{name}.{consumer}.>")])
    }

    /// The right to read single messages of a stream, such as the oldest that a consumer has not settled.
    fn look_at(self, stream: Stream) -> Self {
        self.ask([format!("STREAM.MSG.GET.{}", stream.name())])
    }

    /// The right to publish a component's dead letters.
    fn give_up(self, component: &str) -> Self {
        self.publish([headrace_schemas::subject::dead_of(Some(component), None)])
    }

    /// The right to read a bucket's keys, one by one.
    fn read(self, bucket: &str) -> Self {
        self.ask([format!("STREAM.INFO.KV_{bucket}"), format!("DIRECT.GET.KV_{bucket}.$KV.{bucket}.>")])
    }

    /// The right to read and write a bucket's keys.
    fn keep(self, bucket: &str) -> Self {
        self.read(bucket).publish([format!("$KV.{bucket}.>")])
    }

    /// The right to read and write one key of a bucket.
    fn keep_key(self, bucket: &str, key: &str) -> Self {
        let subject = format!("$KV.{bucket}.{key}");
        self.ask([format!("DIRECT.GET.KV_{bucket}.{subject}")]).publish([subject])
    }

    /// The right to the two keys in which a component notes the beginning of its consumer's incarnation, and the
    /// messages that it has on trial.
    fn note_progress(self, component: &str) -> Self {
        [format!("epoch.{component}"), trials::key(component)]
            .into_iter()
            .fold(self, |rights, key| rights.keep_key(STATE, &key))
    }

    /// The right to bring a component once more what it has missed, and to take that.
    fn catch_up(self, component: &str) -> Self {
        let own = consumer_of(component);
        self.publish([headrace_schemas::subject::catch_up_of(component)])
            .consume(Stream::CatchUp, &own)
            .note_progress(&own)
    }

    fn write_bodies(self) -> Self {
        self.publish(["C", "M"].map(|part| format!("$O.{BODIES}.{part}.*")))
    }

    fn read_bodies(self) -> Self {
        let stream = format!("OBJ_{BODIES}");
        self.ask([format!("DIRECT.GET.{stream}.$O.{BODIES}.M.*")]).push_from(&stream)
    }

    /// The rights for the nameless push consumer with which the client library reads an object's chunks or a bucket's
    /// keys.
    fn push_from(self, stream: &str) -> Self {
        // After a gap, the library removes its consumer and makes another. The consumers have random names, so the
        // right must be for any name.
        self.ask(
            ["CREATE.{}", "CREATE.{}.>", "DELETE.{}.*", "INFO.{}.*"]
                .map(|request| format!("CONSUMER.{}", request.replace("{}", stream))),
        )
        .publish([format!("$JS.FC.{stream}.>")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_admin_and_retention_can_remove_messages() {
        let removing = ["STREAM.PURGE", "STREAM.DELETE", "STREAM.UPDATE", "STREAM.MSG.DELETE", "STREAM.CREATE"];
        for user in User::ALL {
            let Some(Permissions { publish, subscribe }) = user.permissions() else { continue };
            let purges = publish.iter().filter(|subject| subject.contains("STREAM.PURGE")).count();
            assert_eq!(purges, if user == User::Retention { 3 } else { 0 }, "{user:?}");
            for subject in &publish {
                let may_remove = removing[1..].iter().any(|request| subject.contains(request));
                // A wildcard in the place of a request, a stream or a consumer would include these too.
                let is_wide = subject.starts_with("$JS.API.*") || subject == "$JS.API.>" || subject == ">";
                assert!(!may_remove && !is_wide, "{user:?}: {subject}");
            }
            assert!(subscribe.iter().all(|subject| subject != ">" && !subject.starts_with("_INBOX.")), "{user:?}");
        }
    }
}
