//! Times as GitHub writes them: `2026-03-01T12:00:00Z`, with a fraction or another zone too. Seconds are enough here.

/// A time of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Written {
    /// Seconds since the Unix epoch.
    pub(super) instant: i64,
    /// Seconds by which its zone is ahead of UTC.
    pub(super) zone: i64,
}

/// Length of the part that changes: up to the seconds.
pub(super) const LENGTH: usize = 19;

/// Reads a time. `None` if `text` is anything else.
pub(super) fn read(text: &str) -> Option<Written> {
    let (civil, rest) = text.split_at_checked(LENGTH)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators.iter().all(|&(at, byte)| civil.as_bytes()[at] == byte) {
        return None;
    }
    let number = |from: usize, to: usize| civil.get(from..to)?.parse::<u32>().ok().map(i64::from);
    let days = days(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    let zone = zone(rest.trim_start_matches(|it: char| it == '.' || it.is_ascii_digit()))?;
    Some(Written { instant: days * 86_400 + seconds - zone, zone })
}

/// `Z`, `+02:00`, `-04:00`.
fn zone(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60))
}

/// Writes the digits of the time up to its seconds over those of another, `out`.
pub(super) fn write(Written { instant, zone }: Written, out: &mut [u8]) {
    let local = instant + zone;
    let (year, month, day) = civil(local.div_euclid(86_400));
    let second = local.rem_euclid(86_400);
    for (at, width, value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, second / 3_600),
        (14, 2, second / 60 % 60),
        (17, 2, second % 60),
    ] {
        digits(value, &mut out[at..at + width]);
    }
}

/// Writes the last digits of `value`, which is not negative, over all of `out`.
pub(super) fn digits(mut value: i64, out: &mut [u8]) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since the Unix epoch (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day since the Unix epoch. The inverse of [`days`].
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + (month <= 2) as i64, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use headrace_schemas::time::Timestamp;

    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59Z",
            "2023-05-13T22:09:38.000-04:00",
            "2026-12-31T12:00:00+05:30",
        ] {
            let written = read(text).unwrap();
            assert_eq!(written.instant, Timestamp::parse(text).unwrap().as_micros() / 1_000_000, "{text}");
            let mut out = b"1999-09-09T09:09:09".to_vec();
            write(written, &mut out);
            assert_eq!(out, &text.as_bytes()[..LENGTH]);
        }
        for text in ["", "2023-05-13", "2023-05-13T22:09:38", "2023-05-13 22:09:38Z", "a023-05-13T22:09:38Z", "v1.0.0"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
