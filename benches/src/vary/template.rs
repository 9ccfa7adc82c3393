//! What varies in one body, and where. All of it is found once, before anything is sent.
//!
//! What looks alike in a body stays alike: a value belongs to a *party* (the delivery itself, an account, a repository)
//! and is made from that party's identity and the template's own text, wherever it stands.

use std::collections::HashMap;
use std::ops::Range;

use super::form::{Form, Moment, Words};
use super::pieces::{Named, pieces};
use super::random::{Random, hash, mix};
use super::scan::{Scalar, scalars};
use super::time::{self, Written};

/// The party of what is new in each delivery.
pub(super) const DELIVERY: usize = 0;
/// The party whose login decides the tenant.
pub(super) const TENANT: usize = 1;
/// The party of what never changes: GitHub's own accounts and bots.
pub(super) const FIXED: usize = usize::MAX;

/// What [`Template::write`] has room for. Further accounts of a body stay as they are.
const PARTIES_MAX: usize = 16;
/// Ids shorter than this are found in too many places where they mean something else.
const ID_LENGTH_MIN: usize = 4;
/// Together with times and with who takes part, so many new bits tell a billion deliveries apart.
pub(super) const BITS_MIN: usize = 20;
/// In seconds since the Unix epoch.
const YEAR_2000: i64 = 946_684_800;
/// Counts, which are other ones in each delivery.
const COUNTS: [&str; 6] = ["size", "watchers", "forks", "open_issues", "stargazers", "duration"];

/// How many there are of each kind.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Organizations that share the template's tenant. 0 keeps the template's own.
    pub(super) organizations: u64,
    pub(super) repositories_each: u64,
    pub(super) members_each: u64,
}

/// A body with its variable parts.
pub(super) struct Template {
    parties: Vec<Party>,
    values: Vec<Value>,
    copies: Vec<Copied>,
}

struct Party {
    /// Which population it comes from.
    salt: u64,
    /// How large that is. 0 is somebody new in each delivery.
    count: u64,
}

struct Value {
    party: usize,
    tag: u64,
    form: Form,
    at: Range<usize>,
}

/// A value that stands in a second place too.
struct Copied {
    from: Range<usize>,
    to: usize,
}

/// What a body says about its accounts, repositories and ids.
struct Parties {
    all: Vec<Party>,
    /// By login or name, in lower case.
    names: HashMap<String, usize>,
    /// By id or node id.
    ids: HashMap<String, usize>,
    /// By object.
    objects: HashMap<usize, usize>,
    /// Moments when accounts and repositories were made.
    births: HashMap<i64, usize>,
    /// The latest time in the body.
    latest: i64,
}

impl Template {
    /// Finds what varies in `json`, whose tenant is that of `login`.
    pub(super) fn new(json: &str, login: Option<&str>, sizes: Sizes) -> Self {
        let scalars = scalars(json);
        let parties = Parties::of(&scalars, login, sizes);
        let mut template = Self { parties: Vec::new(), values: Vec::new(), copies: Vec::new() };
        let mut known: HashMap<(usize, Form, Option<String>, &str), usize> = HashMap::new();
        let names = Named::of(&scalars, &parties.names, &parties.ids);
        let pieces = scalars.iter().flat_map(|scalar| parties.pieces(scalar, &names));
        for Piece { party, form, at, tag } in pieces.filter(|piece| piece.party != FIXED) {
            let text = &json[at.clone()];
            // Each word of a text is a new one; everything else is the same wherever it stands.
            let is_new = form == Form::Word && tag.is_none();
            let key = (party, form.clone(), tag.clone(), text);
            if !is_new && let Some(first) = known.get(&key) {
                template.copies.push(Copied { from: *first..*first + at.len(), to: at.start });
                continue;
            }
            known.insert(key, at.start);
            let place = if is_new { at.start as u64 } else { 0 };
            let tag = mix(hash(tag.as_deref().unwrap_or(text).to_ascii_lowercase().as_bytes()), place);
            template.values.push(Value { party, tag, form, at });
        }
        template.parties = parties.all;
        // Some bodies name only accounts: nothing else would tell one delivery from the next.
        for party in (TENANT + 1..template.parties.len()).rev() {
            if template.bits() >= BITS_MIN {
                break;
            }
            template.parties[party].count = 0;
        }
        template
    }

    /// About how many bits are new in each delivery.
    pub(super) fn bits(&self) -> usize {
        let is_new = |value: &&Value| value.party == DELIVERY || self.parties[value.party].count == 0;
        self.values.iter().filter(is_new).map(|value| value.form.bits(value.at.len())).sum()
    }

    /// Writes the values of one delivery over `body`, which is a copy of the template. `random` decides who takes part.
    pub(super) fn write(&self, mut random: Random, moment: Moment, words: &Words, body: &mut [u8]) {
        let delivery = random.next();
        // The identity of each party: the tenant comes first, and the others belong to it.
        let mut identities = [0; PARTIES_MAX];
        for (identity, party) in identities.iter_mut().zip(&self.parties) {
            *identity = mix(party.salt, if party.count == 0 { random.next() } else { random.rank(party.count) });
        }
        let tenant = identities[TENANT];
        for (number, identity) in identities.iter_mut().enumerate() {
            *identity = match number {
                DELIVERY => delivery,
                TENANT => tenant,
                _ => mix(tenant, *identity),
            };
        }
        for Value { party, tag, form, at } in &self.values {
            let random = Random::of(identities[*party], *tag);
            form.write(random, moment, words, &mut body[at.clone()]);
        }
        for Copied { from, to } in &self.copies {
            body.copy_within(from.clone(), *to);
        }
    }
}

impl Parties {
    fn of(scalars: &[Scalar<'_>], login: Option<&str>, sizes: Sizes) -> Self {
        let all = vec![Party { salt: 0, count: 1 }, Party { salt: 1, count: sizes.organizations.max(1) }];
        let (names, ids, objects, births) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let latest = scalars.iter().filter_map(instant).max().unwrap_or_default();
        let mut parties = Self { all, names, ids, objects, births, latest };
        // Without an account that decides the tenant, everybody belongs to one nameless organization.
        if let Some(login) = login {
            let login = login.to_ascii_lowercase();
            parties.all[TENANT].salt = hash(login.as_bytes());
            let kept = sizes.organizations == 0 || is_githubs(&login);
            parties.names.insert(login, if kept { FIXED } else { TENANT });
        }
        for scalar in scalars.iter().filter(|it| !it.is_number && it.key == "login") {
            let party = parties.named(scalar.text, sizes.members_each);
            parties.objects.insert(scalar.object, party);
        }
        for scalar in scalars.iter().filter(|it| !it.is_number && it.key == "full_name") {
            let Some((owner, name)) = scalar.text.split_once('/') else { continue };
            parties.named(owner, sizes.members_each);
            let party = parties.named(name, sizes.repositories_each);
            parties.objects.insert(scalar.object, party);
        }
        for scalar in scalars {
            parties.link(scalar);
        }
        for scalar in scalars.iter().filter(|it| is_id(it)) {
            parties.ids.entry(scalar.text.to_owned()).or_insert(DELIVERY);
        }
        parties
    }

    /// The party of this name, one of `count` that a tenant has.
    fn named(&mut self, name: &str, count: u64) -> usize {
        let name = name.to_ascii_lowercase();
        if let Some(party) = self.names.get(&name) {
            return *party;
        }
        let party = if is_githubs(&name) || self.all.len() == PARTIES_MAX {
            FIXED
        } else {
            self.all.push(Party { salt: hash(name.as_bytes()), count });
            self.all.len() - 1
        };
        self.names.insert(name, party);
        party
    }

    /// Notes what belongs to an account or a repository: its id, its node id, and when it was made.
    fn link(&mut self, scalar: &Scalar<'_>) {
        let Some(party) = self.objects.get(&scalar.object).copied() else { return };
        match scalar.key {
            "id" if scalar.is_number && scalar.text.len() >= ID_LENGTH_MIN => {
                self.ids.entry(scalar.text.to_owned()).or_insert(party);
            }
            "node_id" => {
                self.ids.entry(scalar.text.to_owned()).or_insert(party);
            }
            "created_at" => {
                if let Some(instant) = instant(scalar) {
                    self.births.entry(instant).or_insert(party);
                }
            }
            _ => {}
        }
    }

    /// What varies in `scalar`.
    fn pieces(&self, scalar: &Scalar<'_>, names: &Named<'_>) -> Vec<Piece> {
        let whole = scalar.at..scalar.at + scalar.text.len();
        if let Some(instant) = instant(scalar) {
            // An earlier time means that there is none: `0001-01-01T00:00:00Z`.
            return (instant > YEAR_2000).then(|| self.time(scalar, instant)).into_iter().collect();
        }
        if scalar.is_number {
            if let Some(party) = self.ids.get(scalar.text) {
                return vec![Piece::new(*party, Form::Id, whole)];
            }
            let counts = COUNTS.contains(&scalar.key) || scalar.key.ends_with("_count");
            let plain = scalar.text.bytes().all(|byte| byte.is_ascii_digit());
            let tag = Some(format!("{} {}", scalar.object, scalar.key));
            let count = (counts && plain).then(|| Piece { tag, ..Piece::new(DELIVERY, Form::Count, whole) });
            return count.into_iter().collect();
        }
        let party = self.objects.get(&scalar.object).copied().unwrap_or(DELIVERY);
        pieces(scalar, party, names)
    }

    fn time(&self, scalar: &Scalar<'_>, instant: i64) -> Piece {
        let birth = self.births.get(&instant);
        let party = birth.copied().unwrap_or(DELIVERY);
        let before = self.latest - instant;
        let tag = Some(instant.to_string());
        let (form, length) = match (time::read(scalar.text), birth) {
            (Some(Written { zone, .. }), Some(_)) => (Form::Birth(Written { instant, zone }), time::LENGTH),
            (Some(Written { zone, .. }), None) => (Form::Recent { before, zone }, time::LENGTH),
            (None, Some(_)) => (Form::BirthSeconds(instant), scalar.text.len()),
            (None, None) => (Form::RecentSeconds { before }, scalar.text.len()),
        };
        Piece { tag, ..Piece::new(party, form, scalar.at..scalar.at + length) }
    }
}

/// A part of a body that varies.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) party: usize,
    pub(super) form: Form,
    pub(super) at: Range<usize>,
    /// What it is made from, where that is not its own text.
    pub(super) tag: Option<String>,
}

impl Piece {
    pub(super) const fn new(party: usize, form: Form, at: Range<usize>) -> Self {
        Self { party, form, at, tag: None }
    }
}

/// Accounts that are the same for everybody.
fn is_githubs(login: &str) -> bool {
    login == "github" || login == "web-flow" || login.ends_with("[bot]")
}

fn is_id(scalar: &Scalar<'_>) -> bool {
    let named = scalar.key == "id" || scalar.key.ends_with("_id");
    let digits = scalar.text.bytes().all(|byte| byte.is_ascii_digit());
    named && scalar.is_number && digits && scalar.text.len() >= ID_LENGTH_MIN
}

/// The time that `scalar` tells, in seconds since the Unix epoch.
fn instant(scalar: &Scalar<'_>) -> Option<i64> {
    if !scalar.is_number {
        return time::read(scalar.text).map(|written| written.instant);
    }
    (scalar.key.ends_with("_at") && scalar.text.len() == 10).then(|| scalar.text.parse().ok()).flatten()
}
