//! `strftime` in UTC and the C locale, for the formats chat templates use.

use super::TimeStamp;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A format that is not understood. Leaving it out would change the prompt silently.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error("strftime_now: directive %{0} is not supported")]
    Directive(char),
    #[error("strftime_now: the format ends with a lone %")]
    LonePercent,
}

/// A day of the Gregorian calendar.
struct Date {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
}

/// From days since 1970-01-01, after Hinnant, "chrono-compatible low-level date algorithms":
/// years are counted from March, so that the leap day is the last of its year.
fn date(days: i64) -> Date {
    let shifted = days + 719_468; // since 0000-03-01
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let month = usize::try_from(month).expect("a month is 1 to 12");
    Date { year, month, day }
}

/// Days since the first of January, from 0.
fn day_of_year(days: i64, date: &Date) -> i64 {
    let before = date.year - 1;
    let since_epoch = before * 365 + before / 4 - before / 100 + before / 400 - 719_162;
    days - since_epoch
}

/// `now` written as `format` says.
pub(super) fn format(now: TimeStamp, format: &str) -> Result<String, FormatError> {
    let (days, seconds) = (now.0.div_euclid(DAY_SECONDS), now.0.rem_euclid(DAY_SECONDS));
    let date = date(days);
    let weekday = usize::try_from((days + 4).rem_euclid(7)).expect("a remainder of 7");
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = chars.next().ok_or(FormatError::LonePercent)?;
        // glibc: `%-d` is `%d` without padding.
        let pad = directive != '-';
        if !pad {
            directive = chars.next().ok_or(FormatError::LonePercent)?;
        }
        let number = |n: i64, width: usize| match pad {
            true => format!("{n:0width$}"),
            false => n.to_string(),
        };
        let two_digits = |n: i64| number(n, 2);
        text.push_str(&match directive {
            'Y' => date.year.to_string(),
            'y' => two_digits(date.year.rem_euclid(100)),
            'm' => two_digits(date.month as i64),
            'd' => two_digits(date.day),
            'e' if pad => format!("{:2}", date.day),
            'e' => date.day.to_string(),
            'j' => number(day_of_year(days, &date) + 1, 3),
            'H' => two_digits(hour),
            'I' => two_digits(hour12),
            'M' => two_digits(minute),
            'S' => two_digits(second),
            'B' => MONTHS[date.month - 1].to_owned(),
            'b' | 'h' => MONTHS[date.month - 1][..3].to_owned(),
            'A' => DAYS[weekday].to_owned(),
            'a' => DAYS[weekday][..3].to_owned(),
            'w' => weekday.to_string(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'F' => format!("{}-{:02}-{:02}", date.year, date.month, date.day),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            's' => now.0.to_string(),
            '%' => "%".to_owned(),
            other => return Err(FormatError::Directive(other)),
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let days = |y, m, d| {
            (-800_000..800_000).find(|&n| {
                let date = date(n);
                (date.year, date.month, date.day) == (y, m, d)
            })
        };
        assert_eq!(days(1970, 1, 1), Some(0));
        assert_eq!(days(2000, 2, 29), Some(11_016));
        assert_eq!(days(1900, 3, 1), Some(-25_508));
        assert_eq!(days(1900, 2, 29), None);
    }

    /// Expected texts are those of `date -u`.
    #[test]
    fn directives_follow_the_c_locale() {
        let at = TimeStamp(1_709_211_907); // a leap day
        let all = "%Y-%m-%d %H:%M:%S %a %A %b %B %j %y %I %p %e %w %F %T %%";
        assert_eq!(
            format(at, all).unwrap(),
            "2024-02-29 13:05:07 Thu Thursday Feb February 060 24 01 PM 29 4 2024-02-29 13:05:07 %"
        );
        assert_eq!(
            format(TimeStamp(0), "%d %b %Y, %-d|%e|%-I").unwrap(),
            "01 Jan 1970, 1| 1|12"
        );
        assert_eq!(
            format(TimeStamp(-1), "%F %T").unwrap(),
            "1969-12-31 23:59:59"
        );
        assert!(matches!(format(at, "%Q"), Err(FormatError::Directive('Q'))));
        assert!(matches!(format(at, "x%"), Err(FormatError::LonePercent)));
    }
}
