//! Makes a body of its own for every delivery, out of one that GitHub publishes.
//!
//! Ids, node ids, hashes, times, names, addresses and texts are overwritten in place by others of the same length. So
//! the body stays valid JSON of the same size, and what was alike in it stays alike. Organizations, repositories and
//! people come from populations of which few are busy and most are not. The same seed and number give the same body.
//!
//! `scan` finds the values of a body, `template` and `pieces` decide what varies and who it belongs to, `form` writes.

mod form;
mod pieces;
mod random;
mod scan;
mod template;
mod time;

use std::collections::HashMap;

use self::form::{Moment, Words};
pub(crate) use self::random::Random;
use self::template::{Sizes, Template};

/// How many repositories an organization has.
const REPOSITORIES_EACH: u64 = 20;
/// How many people work in an organization.
const MEMBERS_EACH: u64 = 50;
/// How many deliveries fall into the same second of the bodies. No machine sends as many, so no body is of the future.
const PER_SECOND: u64 = 40_000;

/// How to vary bodies.
#[derive(Clone, Copy)]
pub(crate) struct Seed {
    /// Other numbers give other bodies, of the same organizations.
    pub(crate) number: u64,
    /// When delivery 0 happens, in seconds since the Unix epoch.
    pub(crate) began: i64,
    /// How many organizations take part. 0 keeps those of the bodies.
    pub(crate) organizations: u64,
}

/// Varies the bodies of one run.
pub(crate) struct Variation {
    seed: Seed,
    templates: Vec<Template>,
    words: Words,
}

impl Variation {
    /// Looks at each body and the login that decides its tenant.
    pub(crate) fn new(bodies: &[(&str, Option<String>)], seed: Seed) -> Self {
        let mut words = Words::default();
        for (json, _) in bodies {
            scan::scalars(json).iter().for_each(|scalar| pieces::gather(scalar, &mut words));
        }
        let mut shares: HashMap<&str, u64> = HashMap::new();
        bodies.iter().filter_map(|(_, login)| login.as_deref()).for_each(|it| *shares.entry(it).or_default() += 1);
        let all = shares.values().sum::<u64>().max(1);
        let sizes = |login: Option<&str>| {
            // Each login stands for as many organizations as its share of the bodies is.
            let share = seed.organizations * login.and_then(|it| shares.get(it)).copied().unwrap_or(all) / all;
            let organizations = if seed.organizations == 0 { 0 } else { share.max(1) };
            Sizes { organizations, repositories_each: REPOSITORIES_EACH, members_each: MEMBERS_EACH }
        };
        let template = |(json, login): &(&str, Option<String>)| {
            let login = login.as_deref();
            Template::new(json, login, sizes(login))
        };
        Self { seed, templates: bodies.iter().map(template).collect(), words }
    }

    /// Turns `body`, a copy of body number `place`, into that of delivery `index`.
    pub(crate) fn write(&self, place: usize, index: u64, body: &mut [u8]) {
        let mut random = Random::of(self.seed.number, index);
        let now = self.seed.began + i64::try_from(index / PER_SECOND).unwrap_or_default();
        // Not all that happens in a second is sent in it.
        let now = now - random.below(5) as i64;
        let moment = Moment { now, stretch: 128 + random.below(256) as i64 };
        self.templates[place].write(random, moment, &self.words, body);
    }
}

#[cfg(test)]
mod tests;
