//! What GitHub's event kinds and actions mean, as data: `catalog/github/events.csv` and `catalog/github/attributes.csv`
//! (columns in `catalog/README.md`).
//!
//! A new event kind is a new row, and must never be code. A kind without a row is processed all the same, with the
//! category `other`.

use std::collections::HashMap;
use std::sync::LazyLock;

use csv::{Position, StringRecord};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::event::Category;

/// The four groups of kinds. Each has a webhook path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Code, refs, CI, deployments, releases, repository settings.
    Repository,
    /// Members, teams, installations, tokens, organization settings.
    Organization,
    /// Alerts, advisories, scanning, protection rules.
    Security,
    /// Issues, pull requests, discussions, projects.
    Collaboration,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Repository, Self::Organization, Self::Security, Self::Collaboration];

    /// The family's word in paths and in the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Organization => "organization",
            Self::Security => "security",
            Self::Collaboration => "collaboration",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.as_str() == word)
    }
}

/// One meaning: a row of the catalog, with what it inherits from its kind's `*` row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the event is about.
    pub category: Category,
    /// GitHub's audit-log name for the same act.
    pub audit_action: Option<&'static str>,
    /// The noun for the target.
    pub target_kind: &'static str,
    /// Where the target is in the body. The first path that leads to an object counts.
    pub target: Paths,
    /// Where the target's name is, below the target. The first path that leads to text or a number counts.
    pub target_name: Paths,
    /// Where the body says how the act ended. `None` means that the act was done.
    pub outcome: Option<Path>,
    /// OCSF class uid.
    pub ocsf_class: i32,
}

/// Keys to follow, one after the other. An empty path means the place itself.
pub type Path = &'static [&'static str];
/// Alternatives, tried in order.
pub type Paths = &'static [Path];

/// A fact specific to a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name in the event.
    pub name: &'static str,
    /// Where it is in the body.
    pub path: Path,
}

/// One event kind.
#[derive(Debug)]
pub struct Kind {
    /// The family whose path accepts this kind. With `None`, every path does.
    pub family: Option<Family>,
    /// The facts that events of this kind carry.
    pub attributes: Vec<Attribute>,
    default: Entry,
    actions: HashMap<&'static str, Entry>,
}

impl Kind {
    /// The meaning of `action`. If the action is absent or unknown, the meaning of the kind alone.
    #[must_use]
    pub fn entry(&self, action: Option<&str>) -> &Entry {
        action.and_then(|action| self.actions.get(action)).unwrap_or(&self.default)
    }
}

/// Looks up a GitHub event kind (the value of `X-GitHub-Event`).
#[must_use]
pub fn github(kind: &str) -> Option<&'static Kind> {
    GITHUB.get(kind)
}

/// The names of all GitHub kinds in the catalog, in no order.
pub fn github_kinds() -> impl Iterator<Item = &'static str> {
    GITHUB.keys().copied()
}

/// The meaning of a kind that the catalog does not know.
#[must_use]
pub fn unknown() -> &'static Entry {
    static UNKNOWN: Entry = Entry {
        category: Category::Other,
        audit_action: None,
        target_kind: "unknown",
        target: &[],
        target_name: &[],
        outcome: None,
        ocsf_class: 6003,
    };
    &UNKNOWN
}

static GITHUB: LazyLock<HashMap<&'static str, Kind>> = LazyLock::new(|| {
    let events = include_str!("../catalog/github/events.csv");
    let attributes = include_str!("../catalog/github/attributes.csv");
    read(events, attributes).unwrap_or_else(|problem| panic!("the catalog is tested to be readable: {problem}"))
});

/// A row of `events.csv`. An empty cell is `None`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventRow {
    kind: String,
    action: String,
    family: String,
    category: Option<Category>,
    audit_action: Option<String>,
    target_type: Option<String>,
    target: Option<String>,
    target_name: Option<String>,
    outcome: Option<String>,
    ocsf_class: Option<i32>,
}

/// A row of `attributes.csv`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttributeRow {
    kind: String,
    name: String,
    path: String,
}

/// Reads both tables. If a row breaks a rule of `catalog/README.md`, the error names its line.
fn read(events: &str, attributes: &str) -> Result<HashMap<&'static str, Kind>, String> {
    let mut kinds: HashMap<&'static str, Kind> = HashMap::new();
    for (line, row) in rows::<EventRow>("events.csv", events)? {
        let at = |problem: &str| format!("events.csv:{line}: {problem}");
        if row.action == "*" {
            let family = match row.family.as_str() {
                "any" => None,
                word => Some(Family::from_word(word).ok_or_else(|| at(&format!("unknown family `{word}`")))?),
            };
            let default = entry(&row, unknown());
            let kind = Kind { family, attributes: Vec::new(), default, actions: HashMap::new() };
            if kinds.insert(keep(&row.kind), kind).is_some() {
                return Err(at("a second `*` row for this kind"));
            }
            continue;
        }
        let kind = kinds.get_mut(row.kind.as_str()).ok_or_else(|| at("the kind's `*` row must come first"))?;
        let entry = entry(&row, &kind.default);
        if kind.actions.insert(keep(&row.action), entry).is_some() {
            return Err(at("a second row for this action"));
        }
    }
    for (line, row) in rows::<AttributeRow>("attributes.csv", attributes)? {
        let unknown_kind = || format!("attributes.csv:{line}: a kind that events.csv does not have");
        let kind = kinds.get_mut(row.kind.as_str()).ok_or_else(unknown_kind)?;
        kind.attributes.push(Attribute { name: keep(&row.name), path: keys(keep(&row.path)) });
    }
    Ok(kinds)
}

/// The rows of `table`, each with its line.
fn rows<T: DeserializeOwned>(file: &str, table: &str) -> Result<Vec<(u64, T)>, String> {
    let unreadable = |error: csv::Error| format!("{file}: {error}");
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let columns = reader.headers().map_err(unreadable)?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record: StringRecord = record.map_err(unreadable)?;
        let line = record.position().map_or(0, Position::line);
        rows.push((line, record.deserialize(Some(&columns)).map_err(unreadable)?));
    }
    Ok(rows)
}

fn entry(row: &EventRow, inherited: &Entry) -> Entry {
    let alternatives = |cell: &String| alternatives(keep(cell));
    Entry {
        category: row.category.unwrap_or(inherited.category),
        // An audit name belongs to one act, so an action never inherits it from its kind.
        audit_action: row.audit_action.as_deref().map(keep),
        target_kind: row.target_type.as_deref().map_or(inherited.target_kind, keep),
        target: row.target.as_ref().map_or(inherited.target, alternatives),
        target_name: row.target_name.as_ref().map_or(inherited.target_name, alternatives),
        outcome: row.outcome.as_deref().map(|path| keys(keep(path))).or(inherited.outcome),
        ocsf_class: row.ocsf_class.unwrap_or(inherited.ocsf_class),
    }
}

// Leaked once per process. The catalog lives as long as the process, so its users may borrow from it freely. It refers
// to all that is leaked, so leak detectors report nothing.
fn keep(cell: &str) -> &'static str {
    cell.to_owned().leak()
}

fn alternatives(cell: &'static str) -> Paths {
    cell.split('|').map(keys).collect::<Vec<_>>().leak()
}

fn keys(path: &'static str) -> Path {
    path.split('.').filter(|key| !key.is_empty()).collect::<Vec<_>>().leak()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_readable_and_whole() {
        assert!(github_kinds().count() >= 58, "{} kinds", github_kinds().count());
        for name in github_kinds() {
            let kind = github(name).unwrap();
            assert!(!kind.default.target_kind.is_empty(), "{name} has no target type");
            assert!(kind.default.ocsf_class > 1000, "{name} has no OCSF class");
        }
    }

    const COLUMNS: &str =
        "kind,action,family,category,audit_action,target_type,target,target_name,outcome,ocsf_class\n";

    #[test]
    fn actions_inherit_from_their_kind() {
        let rows = "team,*,organization,identity,,team,team,name|slug,,3006\n\
                    team,created,,,team.create,,,,,\n\
                    team,edited,,access,,,team.parent,,,";
        let kinds = read(&format!("{COLUMNS}{rows}"), "kind,name,path\nteam,privacy,team.privacy").unwrap();
        let team = &kinds["team"];
        assert_eq!(team.family, Some(Family::Organization));
        let created = team.entry(Some("created"));
        assert_eq!(
            (created.category, created.audit_action, created.ocsf_class),
            (Category::Identity, Some("team.create"), 3006)
        );
        assert_eq!(created.target_name, [&["name"][..], &["slug"][..]]);
        let edited = team.entry(Some("edited"));
        assert_eq!(
            (edited.category, edited.audit_action, edited.target),
            (Category::Access, None, &[&["team", "parent"][..]][..])
        );
        assert_eq!(team.entry(Some("never heard of")), &team.default);
        assert_eq!(team.attributes, [Attribute { name: "privacy", path: &["team", "privacy"] }]);
    }

    #[test]
    fn a_bad_row_is_named() {
        for (row, problem) in [
            ("team,created,,,,,,,,", "events.csv:2: the kind's `*` row must come first"),
            ("team,*,club,identity,,team,team,name,,1", "events.csv:2: unknown family `club`"),
            ("team,*,any,code,,,,,,1\nteam,*,any,code,,,,,,1", "events.csv:3: a second `*` row for this kind"),
        ] {
            assert_eq!(read(&format!("{COLUMNS}{row}"), "").unwrap_err(), problem);
        }
        let problem = read(&format!("{COLUMNS}team,*,organization,fun,,team,team,name,,1"), "").unwrap_err();
        assert!(problem.starts_with("events.csv: ") && problem.contains("line: 2"), "{problem}");
        assert!(problem.contains("unknown variant `fun`"), "{problem}");
    }

    #[test]
    fn a_column_of_another_name_is_refused() {
        let row = "team,*,organization,identity,,team,team,name,,1";
        let problem = read(&format!("{}{row}", COLUMNS.replace("outcome", "result")), "").unwrap_err();
        assert!(problem.contains("unknown field `result`"), "{problem}");
    }
}
