//! [`Event`]: who did what to which thing, and when. One model for all kinds and sources.
//!
//! The Avro source is `avro/event.avsc`; a test keeps the two together. The stages add the optional parts: enrich adds
//! `enrichment`, score adds `assessment`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::EventId;
use crate::time::Timestamp;

/// One thing that happened, normalized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Stable id. The same delivery always has the same id.
    pub id: EventId,
    /// Whose event it is, as a subject token.
    pub tenant: String,
    /// The source that took it in: `github`, `ndjson`.
    pub source: String,
    /// The source's name of the kind: `push`, `repository`, …. A kind that the catalog does not know keeps its name
    /// and gets the category `other`.
    pub kind: String,
    /// The webhook's `action`, for the kinds that have one.
    pub action: Option<String>,
    /// GitHub's audit-log name for the same act, such as `repo.access`.
    pub audit_action: Option<String>,
    /// What the event is about.
    pub category: Category,
    /// How the act ended.
    pub outcome: Outcome,
    /// OCSF class uid.
    pub ocsf_class: i32,
    /// When it happened, if the body says so; otherwise `received_at`.
    pub occurred_at: Timestamp,
    /// When the gateway received it.
    pub received_at: Timestamp,
    /// The time that the source gave with the id: the same whenever the same thing is delivered. `None` if it gave none,
    /// and in events of earlier releases.
    #[serde(default)]
    pub event_time: Option<Timestamp>,
    /// Who did it.
    pub actor: Option<Actor>,
    /// What it was done to.
    pub target: Option<Target>,
    /// The organization it belongs to.
    pub organization: Option<Organization>,
    /// The repository it belongs to.
    pub repository: Option<Repository>,
    /// What changed, if the source says so.
    pub changes: Vec<Change>,
    /// Facts specific to the kind, named by the catalog: `ref`, `forced`, `permission`, ….
    pub attributes: BTreeMap<String, String>,
    /// Where the act came from, if the source says so (the audit log does).
    pub network: Option<Network>,
    /// The body from which this event was made.
    pub raw: RawReference,
    /// What is known about the actor and the repository beyond the body.
    #[serde(default)]
    pub enrichment: Option<Enrichment>,
    /// Rule matches and risk.
    #[serde(default)]
    pub assessment: Option<Assessment>,
}

impl Event {
    /// The severity that the event's subject carries. `none` before score, and when no rule matched.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.assessment.as_ref().map_or(Severity::None, |assessment| assessment.severity)
    }
}

/// Who did it: a GitHub account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// GitHub's numeric account id.
    pub id: Option<i64>,
    /// Login, as GitHub spells it.
    pub login: String,
    /// `User`, `Bot` or `Organization`.
    pub kind: Option<String>,
}

/// What it was done to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The catalog's noun: `pull_request`, `team`, ….
    pub kind: String,
    /// The source's id of the thing, decimal or a node id.
    pub id: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// A link to it for people.
    pub url: Option<String>,
}

/// An organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// GitHub's numeric id.
    pub id: Option<i64>,
    /// Login, as GitHub spells it.
    pub login: String,
}

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// GitHub's numeric id.
    pub id: Option<i64>,
    /// `owner/name`.
    pub full_name: String,
    /// `public`, `private` or `internal`.
    pub visibility: Option<String>,
    /// The default branch's name.
    pub default_branch: Option<String>,
}

/// One field that changed. Values that are not text are compact JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Dotted name below the body's `changes`.
    pub field: String,
    /// The value before, if the source says so.
    pub before: Option<String>,
    /// The value after, if the source says so.
    pub after: Option<String>,
}

/// Where an act came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Address in text form.
    pub ip: Option<String>,
    /// ISO 3166-1 alpha-2 code.
    pub country: Option<String>,
    /// The client's user agent.
    pub user_agent: Option<String>,
}

/// The body from which an event was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawReference {
    /// Sequence in the stream RAW.
    pub sequence: i64,
    /// SHA-256 of the body as it was sent, lower-case hex.
    pub sha256: String,
    /// Length of the body in bytes.
    pub bytes: i64,
}

/// What was known beyond the body at the time of the event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrichment {
    /// Names of the entries of the asset list that apply.
    pub assets: Vec<String>,
    /// Who is responsible for the asset.
    pub owner: Option<String>,
    /// How much the asset matters: the highest value among the entries that apply.
    pub criticality: Option<Criticality>,
    /// Labels of all entries that apply, sorted.
    pub labels: Vec<String>,
}

/// What the rules say about an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// From 0 (nothing known against it) to 100.
    pub risk: i32,
    /// The highest level among the matches.
    pub severity: Severity,
    /// Every rule that matched.
    pub matches: Vec<RuleMatch>,
    /// How `risk` came about: it is the sum of all reasons' points, limited to 0–100.
    pub reasons: Vec<Reason>,
}

/// One rule that matched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleMatch {
    /// The rule's id.
    pub rule: String,
    /// The rule's title.
    pub title: String,
    /// The rule's level.
    pub severity: Severity,
    /// MITRE ATT&CK technique ids, such as `T1098.003`.
    pub techniques: Vec<String>,
    /// Control ids from the rule's other tags.
    pub controls: Vec<String>,
    /// `field=value` pairs that made it match.
    pub evidence: Vec<String>,
}

/// One part of a risk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable code: `rule:<id>`, `asset:criticality`, ….
    pub code: String,
    /// Points added, or subtracted when negative.
    pub points: i32,
    /// One sentence for a person.
    pub text: String,
}

/// Declares an enum of lower-case words with its text form, for subjects, metrics and rows.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All values, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word for this value in subjects, rows and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The value that `word` names.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// What an event is about.
    Category {
        /// Accounts and their membership.
        Identity => "identity",
        /// Who may do what.
        Access => "access",
        /// Content of repositories: pushes, branches, tags.
        Code => "code",
        /// A repository itself and its settings.
        Repository => "repository",
        /// An organization itself and its settings.
        Organization => "organization",
        /// Rules that protect code: branch protection, rulesets.
        Policy => "policy",
        /// Secrets and their scanning.
        Secrets => "secrets",
        /// Known weaknesses: advisories, Dependabot, code scanning.
        Vulnerability => "vulnerability",
        /// Checks, workflows, builds.
        CiCd => "ci_cd",
        /// Deployments and their reviews.
        Deployment => "deployment",
        /// Issues, pull requests, discussions, projects.
        Collaboration => "collaboration",
        /// Apps, hooks, tokens, marketplace.
        Integration => "integration",
        /// The audit machinery itself.
        Audit => "audit",
        /// Kinds that the catalog does not know.
        #[default]
        Other => "other",
    }
}

words! {
    /// How an act ended.
    Outcome {
        /// It was done.
        Success => "success",
        /// It was tried and failed.
        Failure => "failure",
        /// The source does not say.
        #[default]
        Unknown => "unknown",
    }
}

words! {
    /// How bad it is, in Sigma's levels, in order; `none` when no rule matched.
    Severity {
        /// No rule matched.
        #[default]
        None => "none",
        /// Worth knowing.
        Informational => "informational",
        /// Worth a look when there is time.
        Low => "low",
        /// Worth a look today.
        Medium => "medium",
        /// Worth a look now.
        High => "high",
        /// An incident until shown otherwise.
        Critical => "critical",
    }
}

impl Severity {
    /// The severities of events that a rule matched.
    pub const MATCHED: [Self; 5] = [Self::Informational, Self::Low, Self::Medium, Self::High, Self::Critical];
}

words! {
    /// How much an asset matters, in order.
    Criticality {
        /// Its loss costs little.
        Low => "low",
        /// As much as most assets.
        #[default]
        Medium => "medium",
        /// A team stops without it.
        High => "high",
        /// The company stops without it.
        Critical => "critical",
    }
}
