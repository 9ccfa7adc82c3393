//! The asset list of the configuration.

use anyhow::Context as _;
use async_trait::async_trait;
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::Fault;
use headrace_schemas::event::{Criticality, Enrichment, Event};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Knowledge;

/// One entry of the asset list.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// Name of the entry, as it appears in enriched events. Example: `payments`.
    pub name: String,
    /// Login of the organization, with `*` and `?`. Example: `acme`.
    #[serde(default)]
    pub organization: Option<String>,
    /// Full name of the repository, with `*` and `?`. Example: `acme/payments-*`.
    #[serde(default)]
    pub repository: Option<String>,
    /// Login of the actor, with `*` and `?`. Example: `*-admin`.
    #[serde(default)]
    pub actor: Option<String>,
    /// Who answers for it: a team, a mail address. The first entry that names one wins.
    #[serde(default)]
    pub owner: Option<String>,
    /// How much it matters: `low`, `medium`, `high` or `critical`. The highest of all entries that apply wins.
    #[serde(default)]
    pub criticality: Option<Importance>,
    /// Labels that its events carry. Example: `["pci"]`.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// How much an asset matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    /// Little is lost with it.
    Low,
    /// The usual.
    Medium,
    /// A team stops without it.
    High,
    /// The company stops without it.
    Critical,
}

impl From<Importance> for Criticality {
    fn from(importance: Importance) -> Self {
        match importance {
            Importance::Low => Self::Low,
            Importance::Medium => Self::Medium,
            Importance::High => Self::High,
            Importance::Critical => Self::Critical,
        }
    }
}

impl Asset {
    const fn patterns(&self) -> [(&'static str, Option<&String>); 3] {
        [
            ("organization", self.organization.as_ref()),
            ("repository", self.repository.as_ref()),
            ("actor", self.actor.as_ref()),
        ]
    }

    pub(super) fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if self.patterns().iter().all(|(_, pattern)| pattern.is_none()) {
            let message = "expected at least one of `organization`, `repository` and `actor`; an entry without would apply to nothing";
            problems.push(Invalid::new(path, message));
        }
        for (field, pattern) in self.patterns() {
            if let Some(Err(error)) = pattern.map(|pattern| glob(pattern)) {
                problems.push(Invalid::new(format!("{path}.{field}"), error.to_string()));
            }
        }
        problems
    }
}

/// GitHub's names ignore letter case; `*` stays within one part of `owner/name`.
fn glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).case_insensitive(true).literal_separator(true).build()
}

/// All patterns of one field, each with the entry it belongs to.
struct Field {
    set: GlobSet,
    entries: Vec<usize>,
    given: Vec<bool>,
}

impl Field {
    fn new(patterns: impl ExactSizeIterator<Item = Option<String>>) -> anyhow::Result<Self> {
        let mut set = GlobSetBuilder::new();
        let mut entries = Vec::new();
        let mut given = Vec::with_capacity(patterns.len());
        for (entry, pattern) in patterns.enumerate() {
            given.push(pattern.is_some());
            if let Some(pattern) = pattern {
                set.add(glob(&pattern).with_context(|| format!("cannot use the asset pattern `{pattern}`"))?);
                entries.push(entry);
            }
        }
        Ok(Self { set: set.build().context("cannot compile the asset patterns")?, entries, given })
    }

    /// Removes from `applies` the entries whose pattern of this field does not match `text`.
    fn narrow(&self, text: Option<&str>, applies: &mut [bool]) {
        let mut matched = vec![false; applies.len()];
        if let Some(text) = text {
            self.set.matches(text).into_iter().for_each(|index| matched[self.entries[index]] = true);
        }
        for (entry, applies) in applies.iter_mut().enumerate() {
            *applies &= !self.given[entry] || matched[entry];
        }
    }
}

/// The asset list, compiled: a set per field, so that the cost grows slowly with the list.
pub(super) struct Assets {
    assets: Vec<Asset>,
    organizations: Field,
    repositories: Field,
    actors: Field,
}

impl Assets {
    pub(super) fn new(assets: &[Asset]) -> anyhow::Result<Self> {
        Ok(Self {
            organizations: Field::new(assets.iter().map(|asset| asset.organization.clone()))?,
            repositories: Field::new(assets.iter().map(|asset| asset.repository.clone()))?,
            actors: Field::new(assets.iter().map(|asset| asset.actor.clone()))?,
            assets: assets.to_vec(),
        })
    }
}

#[async_trait]
impl Knowledge for Assets {
    async fn add(&self, event: &Event, enrichment: &mut Enrichment) -> Result<(), Fault> {
        if self.assets.is_empty() {
            return Ok(());
        }
        let mut applies = vec![true; self.assets.len()];
        let repository = event.repository.as_ref().map(|repository| repository.full_name.as_str());
        // A personal repository has no organization, so its owner stands in.
        let owner = repository.and_then(|full_name| full_name.split('/').next());
        let organization = event.organization.as_ref().map(|organization| organization.login.as_str()).or(owner);
        self.organizations.narrow(organization, &mut applies);
        self.repositories.narrow(repository, &mut applies);
        self.actors.narrow(event.actor.as_ref().map(|actor| actor.login.as_str()), &mut applies);
        for (asset, _) in self.assets.iter().zip(applies).filter(|(_, applies)| *applies) {
            enrichment.assets.push(asset.name.clone());
            enrichment.owner = enrichment.owner.take().or_else(|| asset.owner.clone());
            enrichment.criticality = enrichment.criticality.max(asset.criticality.map(Criticality::from));
            enrichment.labels.extend(asset.labels.iter().cloned());
        }
        enrichment.labels.sort_unstable();
        enrichment.labels.dedup();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use headrace_schemas::event::{Actor, Organization, Repository};

    use super::*;
    use crate::fixture;

    fn asset(name: &str) -> Asset {
        Asset { name: name.to_owned(), ..Asset::default() }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    async fn check(assets: &[Asset], repository: &str, actor: &str) -> Enrichment {
        let mut event = fixture::event("push", None);
        event.organization = Some(Organization { id: None, login: repository.split('/').next().unwrap().to_owned() });
        event.repository =
            Some(Repository { id: None, full_name: repository.to_owned(), visibility: None, default_branch: None });
        event.actor = Some(Actor { id: None, login: actor.to_owned(), kind: None });
        let mut enrichment = Enrichment::default();
        Assets::new(assets).unwrap().add(&event, &mut enrichment).await.unwrap();
        enrichment
    }

    #[tokio::test]
    async fn an_entry_applies_when_all_its_patterns_match() {
        let assets = [
            Asset { organization: some("ACME"), owner: some("security"), labels: vec!["all".into()], ..asset("org") },
            Asset {
                repository: some("acme/pay-*"),
                owner: some("payments"),
                criticality: Some(Importance::Critical),
                labels: vec!["pci".into(), "all".into()],
                ..asset("pay")
            },
            Asset {
                repository: some("acme/pay-*"),
                actor: some("*-bot"),
                criticality: Some(Importance::Low),
                ..asset("bot")
            },
        ];
        let pay = check(&assets, "Acme/Pay-api", "mona").await;
        assert_eq!(pay.assets, ["org", "pay"]);
        assert_eq!((pay.owner.as_deref(), pay.criticality), (Some("security"), Some(Criticality::Critical)));
        assert_eq!(pay.labels, ["all", "pci"]);
        assert_eq!(check(&assets, "acme/pay-api", "ci-bot").await.assets, ["org", "pay", "bot"]);
        assert_eq!(check(&assets, "acme/web", "ci-bot").await.assets, ["org"]);
        assert_eq!(check(&assets, "octo/pay-api", "ci-bot").await, Enrichment::default());
    }

    #[test]
    fn an_entry_without_patterns_and_a_bad_pattern_are_named() {
        let problems = asset("x").validate("enrich.assets[0]");
        assert_eq!(problems[0].path, "enrich.assets[0]");
        let bad = Asset { repository: some("acme/{a"), ..asset("x") };
        assert_eq!(bad.validate("p")[0].path, "p.repository");
    }
}
