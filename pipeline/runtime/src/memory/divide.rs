//! Divides the budget: everybody gets the least that it needs, and of what it could use beyond that the same part as
//! everybody else.

use super::{Account, MESSAGE_BYTES, Share, show_max};

/// The fewest messages that a worker takes at once.
const MESSAGES_MIN: usize = 64;

/// What something needs, in bytes, and what it can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// With less, it cannot work.
    pub least: usize,
    /// More would be of no use.
    pub most: usize,
}

impl Need {
    /// `least` bytes, and at most `most`, which may not be less.
    #[must_use]
    pub fn new(least: usize, most: usize) -> Self {
        Self { least, most: most.max(least) }
    }

    /// As often as `count` says.
    #[must_use]
    pub const fn times(self, count: usize) -> Self {
        Self { least: self.least.saturating_mul(count), most: self.most.saturating_mul(count) }
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }
}

/// The budget is too small for the parts of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a budget of at least {least_mb} MB for the parts of this process, found {found_mb} MB")]
pub struct TooSmall {
    /// The least that would do, in MB of 1,000,000 bytes.
    pub least_mb: usize,
    /// What there is.
    pub found_mb: usize,
}

/// A budget that is divided.
#[derive(Clone, Copy, Debug)]
pub struct Division {
    /// The budget, in bytes.
    pub bytes: usize,
    /// How much everybody gets of what is between its least and its most, from 0 to 1.
    part: f64,
}

impl Division {
    /// Divides `bytes` among those who need `need` in all.
    ///
    /// # Errors
    /// When it is less than the least.
    pub fn new(bytes: usize, need: Need) -> Result<Self, TooSmall> {
        let Some(left) = bytes.checked_sub(need.least) else {
            return Err(TooSmall { least_mb: need.least.div_ceil(1_000_000), found_mb: bytes / 1_000_000 });
        };
        let wanted = (need.most - need.least).max(1);
        Ok(Self { bytes, part: (left as f64 / wanted as f64).min(1.0) })
    }

    /// What `need` gets.
    #[must_use]
    pub fn of(&self, need: Need) -> usize {
        // Rounded down, so that the sum of all is no more than the budget.
        need.least + ((need.most - need.least) as f64 * self.part) as usize
    }
}

/// A component that reads a stream: what its workers can use.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// How many there are.
    pub workers: usize,
    /// The most messages that one takes at once.
    pub events_max: usize,
    /// The most bytes of messages that one takes at once.
    pub bytes_max: usize,
    /// The largest message of the broker's. What is larger than a request never comes.
    pub message_max: usize,
    /// What a worker reads at once.
    pub values: Need,
    /// Whose the room for this is.
    pub room: Room,
}

/// Whose the room is for what the workers of a component read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Each worker has its own, because it may hold it for as long as its receiver is away. They need the least once for
    /// each.
    Own,
    /// They share it. They need the least once.
    Shared,
}

impl Reader {
    fn messages(&self) -> Need {
        Need::new(MESSAGES_MIN.min(self.events_max), self.events_max)
    }

    fn bytes(&self) -> Need {
        Need::new(self.message_max, self.bytes_max)
    }

    fn room(&self) -> Need {
        match self.room {
            Room::Own => self.values.times(self.workers),
            Room::Shared => Need { least: self.values.least, ..self.values.times(self.workers) },
        }
    }

    /// What the component needs.
    #[must_use]
    pub fn need(&self) -> Need {
        self.bytes().and(self.messages().times(MESSAGE_BYTES)).times(self.workers).and(self.room())
    }

    /// What each worker of the component `name` gets.
    #[must_use]
    pub fn share(&self, name: &str, division: &Division) -> Share {
        let (room, values) = (division.of(self.room()), division.of(self.values));
        let account = Account::new(name, room);
        show_max(name, division.of(self.need()));
        let take_max = match self.room {
            Room::Own => values,
            Room::Shared => room,
        };
        Share {
            messages_max: division.of(self.messages()),
            bytes_max: division.of(self.bytes()),
            portion_max: values.min(take_max),
            take_max,
            account,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn readers() -> [Reader; 2] {
        let sink = Reader {
            workers: 2,
            events_max: 25_000,
            bytes_max: 32 * MIB,
            message_max: 8 * MIB,
            values: Need::new(75 * MIB, 96 * MIB),
            room: Room::Own,
        };
        [sink, Reader { workers: 4, events_max: 256, bytes_max: 16 * MIB, room: Room::Shared, ..sink }]
    }

    /// Everything that a worker may hold at once.
    fn all_of(share: &Share) -> usize {
        share.messages_max * MESSAGE_BYTES + share.bytes_max
    }

    #[test]
    fn nobody_gets_more_than_the_budget_in_all_nor_less_than_it_needs() {
        let readers = readers();
        let need = readers.iter().fold(Need::default(), |sum, reader| sum.and(reader.need()));
        for bytes in [need.least, need.least + 1, need.least + 99 * MIB, need.most, need.most * 7] {
            let division = Division::new(bytes, need).unwrap();
            let mut sum = 0;
            for reader in readers {
                let share = reader.share("component", &division);
                let room = if reader.room == Room::Own { share.take_max * reader.workers } else { share.take_max };
                sum += all_of(&share) * reader.workers + room;
                assert!(share.bytes_max >= reader.message_max && share.messages_max >= 64);
                assert!(share.take_max >= 75 * MIB, "a largest body is read, alone if need be");
                assert!(share.portion_max <= share.take_max && share.bytes_max <= reader.bytes_max);
            }
            assert!(sum <= bytes, "{sum} of {bytes}");
            assert_eq!(sum == need.most, bytes >= need.most, "{sum} of {bytes}");
        }
    }

    #[test]
    fn a_budget_that_is_too_small_says_what_would_do() {
        let need = Need::new(100_000_001, 200_000_000);
        let error = Division::new(50_000_000, need).unwrap_err();
        assert_eq!(error, TooSmall { least_mb: 101, found_mb: 50 });
        assert!(Division::new(101_000_000, need).is_ok());
    }
}
