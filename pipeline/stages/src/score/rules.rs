//! [`Rules`]: Sigma documents, read, checked and compiled.
//!
//! A rule is tried only on the events of the source that its logsource names as the product. Others may use the same
//! names for other things.
//!
//! Every problem of every document is reported at once. Rules that cannot apply to any source's events are left out and
//! reported, so that a whole collection of rules can be given. Whatever looks like a mistake is refused. So are
//! correlations and filters: this stage sees one event at a time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use headrace_schemas::event::{Event, RuleMatch, Severity};
use rsigma_eval::{Engine, EvaluationResult, MatchDetailLevel};
use rsigma_parser::{ConditionExpr, Level, LogSource, SelectorPattern, SigmaRule, Status, parse_sigma_yaml};

use crate::normalize;
use crate::score::evidence;
use crate::score::field_names;
use crate::score::fields::Fields;

/// The most rules that may be loaded together.
const RULES_MAX: usize = 10_000;
/// The product whose fields are known, so that a rule with a misspelt one is refused.
const GITHUB: &str = "github";
/// The setting that disables rules, named as the place of a problem.
pub(crate) const DISABLED: &str = "disabled";

/// Rules ready to be tried on events.
pub struct Rules {
    /// By source. So an event costs what its source's rules cost, and a source without rules costs nothing.
    engines: Vec<(&'static str, Engine)>,
    /// What each match of a rule begins with, by rule id.
    known: HashMap<String, RuleMatch>,
    skipped: Vec<Skipped>,
}

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The document's file, or the setting's name.
    pub place: String,
    /// What was expected, what was found, what to do.
    pub message: String,
}

/// A rule that was left out because it cannot apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The rule's file.
    pub file: String,
    /// Why it cannot apply.
    pub reason: String,
}

/// Rules that cannot be used, with everything that is wrong with them.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Refused {
    /// At least one problem, in order of documents.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the detection rules have {} problem(s)", self.problems.len())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {}: {}", problem.place, problem.message))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("loaded", &self.len()).field("skipped", &self.skipped.len()).finish()
    }
}

impl Rules {
    /// Reads `documents`, each a name for messages and its YAML.
    ///
    /// # Errors
    /// [`Refused`] with every problem of every document.
    pub fn parse<N: Into<String>, Y: AsRef<str>>(documents: impl IntoIterator<Item = (N, Y)>) -> Result<Self, Refused> {
        let mut loader = Loader::default();
        for (file, yaml) in documents {
            loader.read(&file.into(), yaml.as_ref());
        }
        loader.compile()
    }

    /// How many rules there are, for all sources together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The ids of the rules that are tried, in no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// Rules that were left out.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The rules that `event` matches, in order of loading.
    pub(crate) fn matches(&self, event: &Event) -> Vec<RuleMatch> {
        let of_source = self.engines.iter().find(|(source, _)| *source == event.source);
        let found = of_source.map(|(_, engine)| engine.evaluate(&Fields::new(event))).unwrap_or_default();
        found.iter().filter_map(|result| self.matched(result)).collect()
    }

    /// What each match of the rule `id` begins with.
    #[cfg(test)]
    pub(crate) fn template(&self, id: &str) -> Option<&RuleMatch> {
        self.known.get(id)
    }

    fn matched(&self, result: &EvaluationResult) -> Option<RuleMatch> {
        let known = self.known.get(result.header.rule_id.as_deref()?)?;
        Some(RuleMatch { evidence: evidence::pairs(&result.as_detection()?.matched_fields), ..known.clone() })
    }
}

/// Collects documents and what is wrong with them.
#[derive(Default)]
pub(crate) struct Loader {
    /// By id, so that the order of files does not matter.
    rules: BTreeMap<String, Loaded>,
    skipped: Vec<Skipped>,
    problems: Vec<Problem>,
    /// Fields that rules may test though no event has them.
    foreign_fields: Vec<String>,
}

struct Loaded {
    file: String,
    source: &'static str,
    rule: SigmaRule,
    template: RuleMatch,
}

impl Loader {
    /// Reads one file, which may hold several documents.
    pub(crate) fn read(&mut self, file: &str, yaml: &str) {
        let documents = match parse_sigma_yaml(yaml) {
            Ok(documents) => documents,
            Err(error) => return self.problem(file, error.to_string()),
        };
        for error in &documents.errors {
            self.problem(file, error.clone());
        }
        for correlation in &documents.correlations {
            let title = &correlation.title;
            self.problem(
                file,
                format!("\"{title}\" is a correlation; score sees one event at a time, so remove this document"),
            );
        }
        for filter in &documents.filters {
            let title = &filter.title;
            self.problem(
                file,
                format!("\"{title}\" is a filter; write its condition into the rule, or disable the rule by its id"),
            );
        }
        if documents.is_empty() && documents.errors.is_empty() {
            self.problem(file, "expected a Sigma rule, found no document".to_owned());
        }
        for rule in documents.rules {
            self.add(file, rule);
        }
    }

    /// Lets rules test these fields though no event has them.
    pub(crate) fn allow(&mut self, foreign_fields: &[String]) {
        self.foreign_fields.extend_from_slice(foreign_fields);
    }

    /// Forgets the rules that configuration disables.
    pub(crate) fn disable(&mut self, ids: &[String]) {
        for id in ids {
            if self.rules.remove(id).is_none() {
                self.problem(DISABLED, format!("no rule has the id {id}; take it from the list or correct it"));
            }
        }
    }

    /// Notes a problem that belongs to no document.
    pub(crate) fn problem(&mut self, place: &str, message: String) {
        self.problems.push(Problem { place: place.to_owned(), message });
    }

    /// Compiles what was read.
    pub(crate) fn compile(mut self) -> Result<Rules, Refused> {
        if self.rules.len() > RULES_MAX {
            let message = format!("expected at most {RULES_MAX} rules, found {}", self.rules.len());
            self.problem("rules", message);
        }
        let loaded: Vec<Loaded> = std::mem::take(&mut self.rules).into_values().collect();
        // Only now: what is wrong with a rule that is disabled is nobody's concern.
        for Loaded { file, rule, .. } in loaded.iter().filter(|loaded| loaded.source == GITHUB) {
            for problem in field_names::problems(rule, &self.foreign_fields) {
                self.problem(file, format!("\"{}\" {problem}", rule.title));
            }
        }
        let mut engines = Vec::new();
        for (source, _) in normalize::SOURCES {
            let of_source: Vec<&Loaded> = loaded.iter().filter(|loaded| loaded.source == source).collect();
            if of_source.is_empty() {
                continue;
            }
            let mut engine = Engine::new();
            engine.set_match_detail(MatchDetailLevel::Summary);
            for (at, error) in engine.add_rules(of_source.iter().map(|loaded| &loaded.rule)) {
                self.problem(&of_source[at].file, format!("\"{}\": {error}", of_source[at].rule.title));
            }
            engines.push((source, engine));
        }
        if !self.problems.is_empty() {
            return Err(Refused { problems: self.problems });
        }
        let known = loaded.into_iter().map(|loaded| (loaded.template.rule.clone(), loaded.template)).collect();
        Ok(Rules { engines, known, skipped: self.skipped })
    }

    fn add(&mut self, file: &str, rule: SigmaRule) {
        let source = match source(&rule) {
            Ok(source) => source,
            Err(reason) => return self.skipped.push(Skipped { file: file.to_owned(), reason }),
        };
        let template = match template(&rule) {
            Ok(template) => template,
            Err(message) => return self.problem(file, format!("\"{}\" {message}", rule.title)),
        };
        if let Some(other) = self.rules.get(&template.rule) {
            let message = format!("the id {} is taken by {}; give each rule its own UUID", template.rule, other.file);
            return self.problem(file, message);
        }
        self.rules.insert(template.rule.clone(), Loaded { file: file.to_owned(), source, rule, template });
    }
}

/// The source on whose events a well-formed rule is tried, or why it is of no use here.
fn source(rule: &SigmaRule) -> Result<&'static str, String> {
    if let Some(status @ (Status::Deprecated | Status::Unsupported)) = rule.status {
        let status = if status == Status::Deprecated { "deprecated" } else { "unsupported" };
        return Err(format!("its status is {status}"));
    }
    let LogSource { product, service, category, .. } = &rule.logsource;
    let mut sources = normalize::SOURCES.into_iter().map(|(source, _)| source);
    let Some(source) = sources.find(|source| product.as_deref() == Some(*source)) else {
        let known = normalize::SOURCES.map(|(source, _)| source).join(" or ");
        return Err(format!("its logsource has the product {}, not {known}", product.as_deref().unwrap_or("(none)")));
    };
    let is_audit = source == GITHUB && service.as_deref() == Some("audit");
    if service.is_some() && !is_audit || category.is_some() {
        let known = if source == GITHUB { "the service audit alone" } else { "neither service nor category" };
        return Err(format!("its logsource has a service or category; the product {source} has {known} here"));
    }
    Ok(source)
}

/// What the matches of `rule` begin with.
fn template(rule: &SigmaRule) -> Result<RuleMatch, String> {
    let id = rule.id.as_deref().unwrap_or_default().trim();
    if id.is_empty() {
        return Err("has no id; give it a UUID of its own".to_owned());
    }
    let level = rule.level.ok_or("has no level; expected informational, low, medium, high or critical")?;
    if rule.detection.timeframe.is_some() {
        return Err("has a timeframe; score sees one event at a time".to_owned());
    }
    if let Some(pattern) = rule.detection.conditions.iter().find_map(|condition| unmet_selector(condition, rule)) {
        return Err(format!("has a condition on \"{pattern}\", which names none of its detections"));
    }
    let techniques = rule.tags.iter().filter_map(|tag| technique(tag)).collect();
    let controls = rule.tags.iter().filter(|tag| is_control(tag)).cloned().collect();
    let severity = severity(level);
    Ok(RuleMatch { rule: id.to_owned(), title: rule.title.clone(), severity, techniques, controls, evidence: vec![] })
}

/// A pattern that names no detection. `all of` it would hold for every event.
fn unmet_selector<'a>(condition: &'a ConditionExpr, rule: &SigmaRule) -> Option<&'a SelectorPattern> {
    match condition {
        ConditionExpr::Identifier(_) => None,
        ConditionExpr::Not(inner) => unmet_selector(inner, rule),
        ConditionExpr::And(parts) | ConditionExpr::Or(parts) => {
            parts.iter().find_map(|part| unmet_selector(part, rule))
        }
        ConditionExpr::Selector { pattern, .. } => {
            let named = rule.detection.named.keys().any(|name| pattern.matches_detection_name(name));
            (!named).then_some(pattern)
        }
    }
}

/// `attack.t1098.003` → `T1098.003`; tactics, groups and software are no techniques.
fn technique(tag: &str) -> Option<String> {
    let id = tag.strip_prefix("attack.")?;
    let digits = id.strip_prefix(['t', 'T'])?;
    digits.starts_with(|first: char| first.is_ascii_digit()).then(|| id.to_ascii_uppercase())
}

/// Whether a tag names a control: namespaced, and of no namespace that Sigma has for something else.
fn is_control(tag: &str) -> bool {
    const OTHERS: [&str; 7] = ["attack", "car", "cve", "d3fend", "detection", "stp", "tlp"];
    tag.split_once('.').is_some_and(|(namespace, id)| !id.is_empty() && !OTHERS.contains(&namespace))
}

const fn severity(level: Level) -> Severity {
    match level {
        Level::Informational => Severity::Informational,
        Level::Low => Severity::Low,
        Level::Medium => Severity::Medium,
        Level::High => Severity::High,
        Level::Critical => Severity::Critical,
    }
}

#[cfg(test)]
mod tests;
