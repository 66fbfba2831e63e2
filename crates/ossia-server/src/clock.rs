//! The wall clock, as the API and the system message need it.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// Seconds since the epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Now in UTC, as RFC 3339 has it: `2026-11-25T16:00:00Z`.
pub(crate) fn timestamp() -> String {
    let now = unix_now();
    let second = now % SECONDS_PER_DAY;
    format!("{}T{:02}:{:02}:{:02}Z", date_of(now), second / 3600, second / 60 % 60, second % 60)
}

/// Today in UTC as `YYYY-MM-DD`.
pub(crate) fn today() -> String {
    date_of(unix_now())
}

/// The Gregorian date of a Unix time: years are counted from March, so that the leap day is a year's last.
fn date_of(unix: u64) -> String {
    let days = unix / SECONDS_PER_DAY + 719_468; // from 0000-03-01 to 1970-01-01
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_at_the_edges() {
        let cases = [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
        ];
        for (unix, expected) in cases {
            assert_eq!(date_of(unix), expected);
        }
    }
}
