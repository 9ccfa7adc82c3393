//! What a person should know of a bucket although nothing is wrong with reading it. Each is told when it begins.

/// The clocks of the service and of this machine may differ by so many seconds. Reading goes by the service's alone, but
/// records' times are compared with this machine's, and S3 refuses requests at 900.
const SKEW_MAX_S: i64 = 30;

/// What was told.
#[derive(Default)]
pub(super) struct Warnings {
    is_skewed: bool,
    is_short: bool,
}

impl Warnings {
    /// Compares the clock of the service with `now`, this machine's.
    pub(super) fn clocks(&mut self, clock: Option<i64>, now: i64) {
        let Some(clock) = clock else { return };
        let ahead_s = now.saturating_sub(clock);
        let is_skewed = ahead_s.saturating_abs() > SKEW_MAX_S;
        if is_skewed && !self.is_skewed {
            tracing::warn!(
                ahead_s,
                "expected this machine's clock within {SKEW_MAX_S} s of the bucket's service, found it further ahead or \
                 behind; set it, for records' times are compared with it"
            );
        }
        self.is_skewed = is_skewed;
    }

    /// Tells when listings look back less far than they should.
    pub(super) fn look_back(&mut self, short_s: Option<i64>, look_back_s: u64) {
        if let Some(short_s) = short_s.filter(|_| !self.is_short) {
            tracing::warn!(
                short_s,
                look_back_s,
                "more objects came within `look_back_s` than can be remembered, so an object is only found if it becomes \
                 visible within `short_s` seconds of its time; gather what is written into fewer objects"
            );
        }
        self.is_short = short_s.is_some();
    }
}
