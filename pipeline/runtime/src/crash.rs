//! Named places at which a fault test ends the process, as `kill -9` would.
//!
//! Off unless `HEADRACE_CRASH_AT=<point>:<n>` is set. Then the process ends when it passes the point for the n-th time.
//! With `<point>:<event id>` it ends when it passes the point with that event, each time.
//! This is part of every build, so that the tests run what users run. Each passing costs a load and a branch.
//!
//! `fail` does not serve here. None of its actions kills the process, and the runtime catches a panic. Its points are
//! compiled in only for tests, and then each passing costs a lock and a lookup by name.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The variable that names a point.
pub const VARIABLE: &str = "HEADRACE_CRASH_AT";

/// A place in the way of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The gateway has verified and not yet published.
    BeforeStore,
    /// The gateway has handed the message to the connection.
    BeforeStoreAck,
    /// The gateway has the PubAck and has not answered.
    AfterStoreAck,
    /// What a source gave is stored, and how far it was read is not.
    BeforeCursor,
    /// How far a source was read is stored.
    AfterCursor,
    /// A chain or a sink is about to read a message. It passes this point with the message's event.
    BeforeRead,
    /// A chain has its result and has not published it.
    BeforePublish,
    /// A chain has handed its result to the connection.
    BeforePubAck,
    /// A chain has the PubAck and has not acknowledged.
    AfterPubAck,
    /// What a sink will miss is noted, and the messages are not purged.
    BeforePurge,
    /// Events for a sink that catches up are in CATCHUP, and how far it was brought is not noted.
    BeforeCaughtUp,
    /// A sink is about to deliver.
    BeforeInsert,
    /// The file sink has set a full file aside and not begun the next one.
    AfterRename,
    /// The file sink has begun the next file and not written to it.
    AfterRotation,
    /// The file sink has written and not synced.
    BeforeSync,
    /// A sink has the receiver's answer and has not acknowledged.
    AfterInsert,
    /// A message is acknowledged.
    AfterAck,
    /// A replay has computed rows and stored none of them.
    BeforeReplace,
    /// A replay has stored new rows beside those that they replace.
    BeforeRemoval,
    /// A replay has replaced rows and not noted it.
    BeforeProgress,
    /// A replay has noted how far it is.
    AfterProgress,
    /// A partition of an earlier release is copied, and the copies are not in place.
    BeforeMove,
    /// A partition of an earlier release is in place, and also still where it was.
    AfterMove,
    /// The message of a dead letter is stored again, and the dead letter is still there.
    AfterRedrive,
    /// A dead letter is gone, and those of the same message are still there.
    AfterRedriven,
}

impl Point {
    /// All points, in the order of an event's way.
    pub const ALL: [Self; 25] = [
        Self::BeforeStore,
        Self::BeforeStoreAck,
        Self::AfterStoreAck,
        Self::BeforeCursor,
        Self::AfterCursor,
        Self::BeforeRead,
        Self::BeforePublish,
        Self::BeforePubAck,
        Self::AfterPubAck,
        Self::BeforePurge,
        Self::BeforeCaughtUp,
        Self::BeforeInsert,
        Self::AfterRename,
        Self::AfterRotation,
        Self::BeforeSync,
        Self::AfterInsert,
        Self::AfterAck,
        Self::BeforeReplace,
        Self::BeforeRemoval,
        Self::BeforeProgress,
        Self::AfterProgress,
        Self::BeforeMove,
        Self::AfterMove,
        Self::AfterRedrive,
        Self::AfterRedriven,
    ];

    /// The point's name in the variable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeStore => "before_store",
            Self::BeforeStoreAck => "before_store_ack",
            Self::AfterStoreAck => "after_store_ack",
            Self::BeforeCursor => "before_cursor",
            Self::AfterCursor => "after_cursor",
            Self::BeforeRead => "before_read",
            Self::BeforePublish => "before_publish",
            Self::BeforePubAck => "before_pub_ack",
            Self::AfterPubAck => "after_pub_ack",
            Self::BeforePurge => "before_purge",
            Self::BeforeCaughtUp => "before_caught_up",
            Self::BeforeInsert => "before_insert",
            Self::AfterRename => "after_rename",
            Self::AfterRotation => "after_rotation",
            Self::BeforeSync => "before_sync",
            Self::AfterInsert => "after_insert",
            Self::AfterAck => "after_ack",
            Self::BeforeReplace => "before_replace",
            Self::BeforeRemoval => "before_removal",
            Self::BeforeProgress => "before_progress",
            Self::AfterProgress => "after_progress",
            Self::BeforeMove => "before_move",
            Self::AfterMove => "after_move",
            Self::AfterRedrive => "after_redrive",
            Self::AfterRedriven => "after_redriven",
        }
    }
}

struct Plan {
    point: Point,
    end: End,
}

/// At which passing the process ends.
enum End {
    /// When so many are left.
    Passing(AtomicU64),
    /// With the event of this id.
    Event(String),
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

/// Passes `point`; the process may end here when a test asked for it.
pub fn pass(point: Point) {
    pass_with(point, || None);
}

/// Passes `point` with the event whose id `event` tells.
pub fn pass_with<'e>(point: Point, event: impl FnOnce() -> Option<&'e str>) {
    let Some(plan) = PLAN.get_or_init(|| plan(&std::env::var(VARIABLE).ok()?)) else { return };
    let ends = plan.point == point
        && match &plan.end {
            End::Passing(left) => left.fetch_sub(1, Ordering::Relaxed) == 1,
            End::Event(id) => event() == Some(id),
        };
    if ends {
        // SIGKILL to ourselves: no destructor runs, no buffer is flushed, exactly as from outside.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

fn plan(text: &str) -> Option<Plan> {
    let (name, end) = text.split_once(':')?;
    let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
    let end = match end.parse() {
        Ok(passings) => End::Passing(AtomicU64::new(passings)),
        // An event's id has its source before a colon.
        Err(_) if end.contains(':') => End::Event(end.to_owned()),
        Err(_) => return None,
    };
    Some(Plan { point, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_a_point_and_a_passing_or_an_event() {
        let plan = plan("after_insert:3").unwrap();
        assert!(
            plan.point == Point::AfterInsert
                && matches!(plan.end, End::Passing(ref left) if left.load(Ordering::Relaxed) == 3)
        );
        let plan = super::plan("before_read:github:1").unwrap();
        assert!(plan.point == Point::BeforeRead && matches!(plan.end, End::Event(ref id) if id == "github:1"));
        for wrong in ["", "after_insert", "after_insert:x", "nowhere:1"] {
            assert!(super::plan(wrong).is_none(), "{wrong}");
        }
    }
}
