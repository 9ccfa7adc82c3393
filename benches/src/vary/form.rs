//! How a value is written: which bytes may stand in its place, as many as stood there before.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::random::Random;
use super::time::{self, Written};

const LOWER_VOWELS: &[u8] = b"aeiou";
const LOWER_CONSONANTS: &[u8] = b"bcdfghjklmnprstvwz";
const ALPHANUMERIC: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789Aa";

/// How a value is written over the one of the template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// Syllables for letters, digits for digits; capitals and all other characters stay where they are.
    Name,
    /// Digits. The first stays, because ids of one time begin alike.
    Id,
    /// Digits, each a new one.
    Count,
    /// Hexadecimal digits for such; all other characters stay.
    Hex,
    /// Letters and digits for such; all other characters stay.
    Opaque,
    /// A word of the vocabulary.
    Word,
    /// A node id of the older kind: base64 of a text such as `04:User21031067`, with the id of [`Form::Id`] in it.
    Node { decoded: Vec<u8>, id_at: usize },
    /// A time of the account or the repository, which is the same in all its deliveries.
    Birth(Written),
    /// A time this long before the latest of the body, in seconds.
    Recent { before: i64, zone: i64 },
    /// The same in seconds since the Unix epoch.
    RecentSeconds { before: i64 },
    /// As [`Form::Birth`], in seconds since the Unix epoch.
    BirthSeconds(i64),
}

/// When a delivery happens.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// Seconds since the Unix epoch.
    pub(super) now: i64,
    /// By how many 256ths the times between a body's moments are stretched.
    pub(super) stretch: i64,
}

/// Words by their lengths, as the texts of the bodies have them.
#[derive(Default)]
pub(super) struct Words(HashMap<usize, Vec<Vec<u8>>>);

impl Words {
    pub(super) fn add(&mut self, word: &str) {
        let word = word.to_ascii_lowercase().into_bytes();
        let words = self.0.entry(word.len()).or_default();
        if !words.contains(&word) {
            words.push(word);
        }
    }

    fn one(&self, random: &mut Random, length: usize) -> Option<&[u8]> {
        let words = self.0.get(&length)?;
        words.get(random.below(words.len() as u64) as usize).map(Vec::as_slice)
    }
}

impl Form {
    /// About how many bits a value of `length` bytes has.
    pub(super) const fn bits(&self, length: usize) -> usize {
        match self {
            Self::Name | Self::Count => length * 3,
            Self::Id => length.saturating_sub(1) * 3,
            Self::Hex => length * 4,
            Self::Opaque => length * 5,
            Self::Word => 5,
            // They only repeat other values, or have few of their own.
            Self::Node { .. }
            | Self::Birth(_)
            | Self::BirthSeconds(_)
            | Self::Recent { .. }
            | Self::RecentSeconds { .. } => 0,
        }
    }

    /// Writes a value over `place`, which holds that of the template.
    pub(super) fn write(&self, mut random: Random, moment: Moment, words: &Words, place: &mut [u8]) {
        match self {
            Self::Name => name(&mut random, place),
            Self::Id => id(random, place),
            Self::Count => count(&mut random, place),
            Self::Hex => hex(&mut random, place),
            Self::Opaque => opaque(&mut random, place),
            Self::Word => match words.one(&mut random, place.len()) {
                Some(word) => copy_case(word, place),
                None => name(&mut random, place),
            },
            Self::Node { decoded, id_at } => {
                let mut decoded = decoded.clone();
                id(random, &mut decoded[*id_at..]);
                // The length is that of the template, so it fits.
                let _ = STANDARD.encode_slice(decoded, place);
            }
            Self::Birth(Written { instant, zone }) => {
                let written = Written { instant: birth(&mut random, *instant, moment), zone: *zone };
                time::write(written, place);
            }
            Self::BirthSeconds(instant) => time::digits(birth(&mut random, *instant, moment), place),
            Self::Recent { before, zone } => {
                time::write(Written { instant: recent(*before, moment), zone: *zone }, place);
            }
            Self::RecentSeconds { before } => time::digits(recent(*before, moment), place),
        }
    }
}

fn name(random: &mut Random, place: &mut [u8]) {
    let mut vowel = random.below(2) == 1;
    for byte in place {
        if byte.is_ascii_alphabetic() {
            let letters = if vowel { LOWER_VOWELS } else { LOWER_CONSONANTS };
            let letter = letters[random.below(letters.len() as u64) as usize];
            *byte = if byte.is_ascii_uppercase() { letter.to_ascii_uppercase() } else { letter };
            vowel = !vowel;
        } else if byte.is_ascii_digit() {
            *byte = b'0' + random.below(10) as u8;
        }
    }
}

fn id(mut random: Random, place: &mut [u8]) {
    for byte in place.iter_mut().skip(1) {
        *byte = b'0' + random.below(10) as u8;
    }
}

fn count(random: &mut Random, place: &mut [u8]) {
    let least = u64::from(place.len() > 1);
    for (number, byte) in place.iter_mut().enumerate() {
        let least = if number == 0 { least } else { 0 };
        *byte = b'0' + (least + random.below(10 - least)) as u8;
    }
}

fn hex(random: &mut Random, place: &mut [u8]) {
    let (mut bits, mut left) = (0, 0);
    for byte in place.iter_mut().filter(|byte| byte.is_ascii_hexdigit()) {
        if left == 0 {
            (bits, left) = (random.next(), 16);
        }
        *byte = b"0123456789abcdef"[(bits & 15) as usize];
        (bits, left) = (bits >> 4, left - 1);
    }
}

fn opaque(random: &mut Random, place: &mut [u8]) {
    let (mut bits, mut left) = (0, 0);
    for byte in place.iter_mut().filter(|byte| byte.is_ascii_alphanumeric()) {
        if left == 0 {
            (bits, left) = (random.next(), 10);
        }
        *byte = ALPHANUMERIC[(bits & 63) as usize];
        (bits, left) = (bits >> 6, left - 1);
    }
}

fn copy_case(word: &[u8], place: &mut [u8]) {
    for (byte, letter) in place.iter_mut().zip(word) {
        *byte = if byte.is_ascii_uppercase() { letter.to_ascii_uppercase() } else { *letter };
    }
}

/// A time within two years of the template's, and in the past.
fn birth(random: &mut Random, instant: i64, moment: Moment) -> i64 {
    const TWO_YEARS_S: u64 = 2 * 365 * 86_400;
    let shifted = instant - TWO_YEARS_S as i64 + random.below(2 * TWO_YEARS_S) as i64;
    shifted.min(moment.now - 86_400)
}

const fn recent(before: i64, moment: Moment) -> i64 {
    moment.now - before * moment.stretch / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: &Form, template: &str) -> String {
        let moment = Moment { now: 1_793_404_800, stretch: 256 };
        let mut place = template.as_bytes().to_vec();
        form.write(Random::of(1, 2), moment, &Words::default(), &mut place);
        String::from_utf8(place).unwrap()
    }

    #[test]
    fn every_form_keeps_the_shape_of_its_value() {
        let shape = |text: &str| -> String {
            let class = |it: char| match it {
                'a'..='z' => 'a',
                'A'..='Z' => 'A',
                '0'..='9' => '0',
                other => other,
            };
            text.chars().map(class).collect()
        };
        for template in ["Codertocat", "octo-org", "Hello-World2"] {
            let name = written(&Form::Name, template);
            assert_eq!(shape(&name), shape(template));
            assert_ne!(name, template);
        }
        let id = written(&Form::Id, "186853002");
        assert!(id.starts_with('1') && id != "186853002" && shape(&id) == "000000000", "{id}");
        assert!(!written(&Form::Count, "100").starts_with('0'));
        let guid = written(&Form::Hex, "e07742bd-189a-5079-918b-43f8b2f94b89");
        assert!(guid.bytes().enumerate().all(|(at, it)| it == b'-' || (it.is_ascii_hexdigit() && at != 8)), "{guid}");
        let time = written(&Form::Recent { before: 60, zone: 7_200 }, "2019-05-15T15:20:34");
        assert_eq!(time, "2026-10-31T01:59:00");
    }

    #[test]
    fn an_older_node_id_holds_the_new_id() {
        let decoded = b"04:User21031067".to_vec();
        let node = written(&Form::Node { decoded, id_at: 7 }, &STANDARD.encode("04:User21031067"));
        let told = String::from_utf8(STANDARD.decode(node).unwrap()).unwrap();
        assert_eq!(told, format!("04:User{}", written(&Form::Id, "21031067")));
    }
}
