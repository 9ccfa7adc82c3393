//! Which optional parts an event has, as bits of the column `told`. Empty text and no text are then two values, and a row
//! makes the very event again.
//!
//! Bits are never given another meaning: rows are kept for years.

use headrace_schemas::event::{
    Actor, Assessment, Change, Enrichment, Event, Network, Organization, RawReference, Repository, Target,
};

/// A part of an event that need not be there.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Part {
    /// The row tells which parts there are. Those of earlier releases do not.
    Parts,
    Action,
    AuditAction,
    EventTime,
    Actor,
    ActorId,
    ActorKind,
    Target,
    TargetId,
    TargetName,
    TargetUrl,
    Organization,
    OrganizationId,
    Repository,
    RepositoryId,
    Visibility,
    DefaultBranch,
    Network,
    Ip,
    Country,
    UserAgent,
    Enrichment,
    Owner,
    Criticality,
    Assessment,
}

/// The parts that an event has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told(u32);

impl Told {
    /// From the column.
    pub(super) const fn of_column(bits: u32) -> Self {
        Self(bits)
    }

    /// The value of the column.
    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    /// Whether `part` is there. A row of an earlier release has it when its column is not empty, as `is_filled` says.
    pub(super) const fn has(self, part: Part, is_filled: bool) -> bool {
        if self.0 & Self::bit(Part::Parts) == 0 { is_filled } else { self.0 & Self::bit(part) != 0 }
    }

    const fn bit(part: Part) -> u32 {
        1 << part as u32
    }

    fn note<T>(&mut self, part: Part, value: Option<&T>) {
        if value.is_some() {
            self.0 |= Self::bit(part);
        }
    }

    /// The parts of `event`. All fields are named here, so that a new one must be given its column too.
    pub(super) fn of(event: &Event) -> Self {
        let Event {
            id: _,
            tenant: _,
            source: _,
            kind: _,
            action,
            audit_action,
            category: _,
            outcome: _,
            ocsf_class: _,
            occurred_at: _,
            received_at: _,
            event_time,
            actor,
            target,
            organization,
            repository,
            changes: _,
            attributes: _,
            network,
            raw: RawReference { sequence: _, sha256: _, bytes: _ },
            enrichment,
            assessment,
        } = event;
        let mut told = Self(Self::bit(Part::Parts));
        told.note(Part::Action, action.as_ref());
        told.note(Part::AuditAction, audit_action.as_ref());
        told.note(Part::EventTime, event_time.as_ref());
        told.note(Part::Actor, actor.as_ref());
        if let Some(Actor { id, login: _, kind }) = actor {
            told.note(Part::ActorId, id.as_ref());
            told.note(Part::ActorKind, kind.as_ref());
        }
        told.note(Part::Target, target.as_ref());
        if let Some(Target { kind: _, id, name, url }) = target {
            told.note(Part::TargetId, id.as_ref());
            told.note(Part::TargetName, name.as_ref());
            told.note(Part::TargetUrl, url.as_ref());
        }
        told.note(Part::Organization, organization.as_ref());
        if let Some(Organization { id, login: _ }) = organization {
            told.note(Part::OrganizationId, id.as_ref());
        }
        told.note(Part::Repository, repository.as_ref());
        if let Some(Repository { id, full_name: _, visibility, default_branch }) = repository {
            told.note(Part::RepositoryId, id.as_ref());
            told.note(Part::Visibility, visibility.as_ref());
            told.note(Part::DefaultBranch, default_branch.as_ref());
        }
        told.note(Part::Network, network.as_ref());
        if let Some(Network { ip, country, user_agent }) = network {
            told.note(Part::Ip, ip.as_ref());
            told.note(Part::Country, country.as_ref());
            told.note(Part::UserAgent, user_agent.as_ref());
        }
        told.note(Part::Enrichment, enrichment.as_ref());
        if let Some(Enrichment { assets: _, owner, criticality, labels: _ }) = enrichment {
            told.note(Part::Owner, owner.as_ref());
            told.note(Part::Criticality, criticality.as_ref());
        }
        told.note(Part::Assessment, assessment.as_ref());
        if let Some(Assessment { risk: _, severity: _, matches: _, reasons: _ }) = assessment {}
        told
    }
}

/// The values of a change that its source tells, as the column `changes.told` has them.
pub(super) fn of_change(Change { field: _, before, after }: &Change) -> u8 {
    u8::from(before.is_some()) * BEFORE + u8::from(after.is_some()) * AFTER
}

/// The value before is told.
pub(super) const BEFORE: u8 = 1;
/// The value after is told.
pub(super) const AFTER: u8 = 2;
